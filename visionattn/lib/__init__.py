"""Where the compiled libraries live: shared objects that `visionattn._library` loads."""
