"""The generated world (design §5): clips with exact masks, true answers and true traces."""
