"""What a Linux guest's memory tells about it, by the types and symbols that its kernel keeps."""
