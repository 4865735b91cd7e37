"""What can be run: config in, engine called, manifest out. The command line lives in `jobs.cli`."""
