"""What a state dict is: kinds of tensors, arithmetic, files, geometry, the loss landscape."""
