"""Charts and pictures, drawn from what the stages wrote."""
