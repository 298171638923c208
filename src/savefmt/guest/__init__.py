"""What the bytes of an image mean to the guest: addresses, page tables, registers."""
