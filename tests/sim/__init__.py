"""The real core and store on fakes that fail."""
