"""The subcommands of `mpy6a`, one module a family; imported when they are called."""
