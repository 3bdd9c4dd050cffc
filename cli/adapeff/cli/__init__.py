"""The command line: parses, calls the service, prints. Results go to stdout, everything else to stderr."""
