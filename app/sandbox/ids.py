"""Object ids in the forms real Stripe mints them."""

import random
import string
from uuid import UUID

_ALPHANUMERIC = string.ascii_letters + string.digits

#: prefix → (first character, how many random ones follow).
_FORMS: dict[str, tuple[str, int]] = {
    "cus_": ("", 14),
    "prod_": ("", 14),
    "si_": ("", 14),
    "req_": ("", 14),
    "cs_test_": ("", 58),
    "whsec_": ("", 32),
    "pi_": ("3", 23),
    "upcoming_in_": ("1", 23),
    "acct_": ("1", 15),
    "ca_": ("", 32),
    "ac_": ("", 32),
    "rt_": ("", 48),
    "sk_test_": ("", 48),
    "pk_test_": ("", 48),
    "mtr_test_": ("61", 30),
    "evt_test_": ("65", 52),
    "feat_test_": ("61", 30),
    "ent_test_": ("61", 30),
}
_DEFAULT = ("1", 23)
_INTENT_FAMILY = len("3") + 16


class Ids:
    """Mints ids; a seed makes them the same in every run."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - test ids, and a seed has to reproduce them

    def reseed(self, seed: int | None) -> None:
        """Begin anew: from here on the ids are those of a fresh run with this seed."""
        self._random.seed(seed)

    def text(self, length: int, alphabet: str = _ALPHANUMERIC) -> str:
        return "".join(self._random.choices(alphabet, k=length))

    def mint(self, prefix: str) -> str:
        first, length = _FORMS.get(prefix, _DEFAULT)
        return prefix + first + self.text(length)

    def sibling(self, prefix: str, intent: str) -> str:
        """Mint an id of a PaymentIntent's family: charges share 17 characters with their intent."""
        stem = intent.removeprefix("pi_")
        return prefix + stem[:_INTENT_FAMILY] + self.text(len(stem) - _INTENT_FAMILY)

    def uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def invoice_prefix(self) -> str:
        return self.text(8, string.ascii_uppercase + string.digits)
