"""The methods under comparison and the pieces they are composed of; needs torch alone."""
