"""Models in the layout of the Hugging Face Hub: export, loading from a folder or the Hub, and upload."""
