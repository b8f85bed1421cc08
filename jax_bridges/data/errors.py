"""What is wrong with a picture."""


class BadImage(ValueError):
    """A picture that cannot be used; the text is the reason, without the name of the file."""
