SOURCE = "https://github.com/{{repository}}@{{ref}}"
PINS = """
{{pins}}
"""
