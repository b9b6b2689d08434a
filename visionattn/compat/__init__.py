"""Other libraries' interfaces on top of visionattn's operators, for code that was written against those libraries."""
