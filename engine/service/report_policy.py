"""What a browser may do with the page of a report card: show it, with its own style, and nothing else."""

import base64
import hashlib
import re

_STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


def style_hash(style: str) -> str:
    """Name a style as a content security policy does (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"


def policy_of(page: bytes) -> str:
    """Make the policy for a page with one style."""
    found = _STYLE.search(page)
    style = style_hash(found[1].decode()) if found else "'none'"
    return (
        f"default-src 'none'; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; sandbox"
    )
