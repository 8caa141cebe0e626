"""What every topic may use: data, a dense decoder, a training loop, files, checks, process groups."""
