"""Charts and pictures, drawn from the files that the stages wrote."""
