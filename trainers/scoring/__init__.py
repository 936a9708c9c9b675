"""Score plans without training: what each changes of the unshared model's answers."""
