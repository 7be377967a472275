"""Counts of what the lake holds, kept on the local disk by what its listings say: status and sensors go by them."""
