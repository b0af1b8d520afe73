def table(r):
    return ""


def draw(r, p):
    pass
