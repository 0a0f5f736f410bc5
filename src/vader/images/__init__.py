"""Images from files to pixels: listing, decoding, resampling, colour."""
