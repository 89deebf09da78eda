"""Training: the VTS-CoT builder: from samples with masks and a teacher to checked dialogues (O3 spec §11)."""
