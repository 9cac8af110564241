"""What every stage reads: pictures, masks, captions and labels in one form, benchmarks, prompts."""
