"""From files to pixels: listing, decoding, resampling, colour."""
