"""What a Linux guest's own memory tells of it, by the types and symbols that its kernel keeps."""
