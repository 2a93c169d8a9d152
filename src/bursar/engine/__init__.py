"""The order of I/O and nothing else: ports, drivers, workers. Import the modules by name."""
