"""`mpy6a bench`: the pipe, the sidecar and the library as real processes on a real disk, measured from outside."""
