"""What every run stands on: parameters, files, processes, precision."""
