"""The rules of the money, pure: no I/O, no clock, no randomness, no logging. Import the modules by name."""
