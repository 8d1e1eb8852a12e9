"""Who may use the service: one key a user, kept as a salted hash and never written anywhere.

{"salt": "9f...", "users": {"ada": {"scrypt": "41...", "max_open_tasks": 20}}}
"""

import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from qpeft.errors import ConfigError
from qpeft.service.settings import UserLimits

KEYS_VARIABLE = "QPEFT_EMULATOR_KEYS"
"""Environment variable with `user=key` pairs, commas between them."""
MIN_KEY_LENGTH = 8

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_KEY = re.compile(r"[!-~]+")
_LIMITS = ("max_open_tasks", "max_shots_a_day")
_MAX_REMEMBERED = 1024


class KeyRing:
    """Finds the user of a key.

    Args:
        salt: Of all hashes of this ring.
        hashes: The user of each scrypt hash (hexadecimal).
        limits: Of single users, where they differ from the service's.
    """

    def __init__(
        self, salt: bytes, hashes: Mapping[str, str], limits: Mapping[str, UserLimits] | None = None
    ):
        self._salt, self._hashes, self._limits = salt, dict(hashes), dict(limits or {})
        # scrypt is slow on purpose; a key that has been seen is known again by a fast keyed hash.
        self._pepper = secrets.token_bytes(32)
        self._remembered: dict[bytes, str | None] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"KeyRing(users={self.users})"

    @property
    def users(self) -> list[str]:
        """Names of all users."""
        return sorted(self._hashes.values())

    def user_of(self, key: str) -> str | None:
        """Return whose key this is, or None."""
        short = hashlib.blake2b(key.encode(), key=self._pepper).digest()
        with self._lock:
            if short in self._remembered:
                return self._remembered[short]
            user = self._hashes.get(_hash(key, self._salt))
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[short] = user
            return user

    def limits_of(self, user: str, default: UserLimits) -> UserLimits:
        """Return what a user may have."""
        return self._limits.get(user, default)

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, str]) -> Self:
        """Make a ring of keys by user.

        Raises:
            ConfigError: A name or key has a form that cannot work, or two users share a key.
        """
        salt = secrets.token_bytes(16)
        hashes: dict[str, str] = {}
        for user, key in pairs.items():
            _check(user, key)
            digest = _hash(key, salt)
            if digest in hashes:
                raise ConfigError(f"Users '{hashes[digest]}' and '{user}' have the same key.")
            hashes[digest] = user
        return cls(salt, hashes)

    @classmethod
    def from_environment(cls) -> Self:
        """Make a ring of the keys in QPEFT_EMULATOR_KEYS.

        Raises:
            ConfigError: The variable is missing or not of its form.
        """
        text = os.environ.get(KEYS_VARIABLE, "").strip()
        if not text:
            raise ConfigError(
                f"The service needs keys. Set {KEYS_VARIABLE}='ada=a-key,bob=another-key' in its "
                f"environment, or make a key file."
            )
        pairs: dict[str, str] = {}
        for number, pair in enumerate(text.split(","), start=1):
            user, equals, key = pair.strip().partition("=")
            if not equals or user in pairs:
                raise ConfigError(
                    f"{KEYS_VARIABLE}: pair {number} must be 'user=key', with each user once."
                )
            pairs[user] = key
        return cls.from_pairs(pairs)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a ring that `add_user` wrote.

        Raises:
            ConfigError: The file is missing or not of its form.
        """
        data = _read(Path(path))
        hashes: dict[str, str] = {}
        limits: dict[str, UserLimits] = {}
        for user, entry in data["users"].items():
            hashes[entry["scrypt"]] = user
            own = {name: entry[name] for name in _LIMITS if name in entry}
            if own:
                limits[user] = UserLimits(**own)
        if not hashes:
            raise ConfigError(f"Key file {path} has no users. Add one.")
        return cls(bytes.fromhex(data["salt"]), hashes, limits)


def add_user(path: str | Path, user: str, limits: UserLimits | None = None) -> str:
    """Make a key for a user, write its hash to a key file, and return the key, which is nowhere else.

    Args:
        path: The key file; it is made if it is missing.
        user: A new user, or one who gets a new key.
        limits: The user's own limits; None for the service's.

    Raises:
        ConfigError: The name cannot work, or the file is not of its form.
    """
    path = Path(path)
    data: dict[str, Any] = {"salt": secrets.token_hex(16), "users": {}}
    if path.exists():
        data = _read(path)
    key = secrets.token_urlsafe(32)
    _check(user, key)
    entry: dict[str, Any] = {"scrypt": _hash(key, bytes.fromhex(data["salt"]))}
    if limits is not None:
        entry |= {name: getattr(limits, name) for name in _LIMITS}
    data["users"][user] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(data, indent=1), "utf-8")
    temporary.replace(path)
    return key


def _hash(key: str, salt: bytes) -> str:
    return hashlib.scrypt(key.encode(), salt=salt, n=2**13, r=8, p=1, dklen=32).hex()


def _check(user: str, key: str) -> None:
    if not _USER.fullmatch(user):
        raise ConfigError(f"A user's name has letters, digits and ._@- only; got '{user}'.")
    if len(key) < MIN_KEY_LENGTH or not _KEY.fullmatch(key):
        raise ConfigError(
            f"The key of user '{user}' must have at least {MIN_KEY_LENGTH} characters, no spaces, "
            f"and be plain ASCII. Make one with: python -c 'import secrets; "
            f"print(secrets.token_urlsafe(32))'"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no key file {path}.")
    try:
        data = json.loads(path.read_text("utf-8"))
        bytes.fromhex(data["salt"])
        for entry in data["users"].values():
            bytes.fromhex(entry["scrypt"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"Key file {path} is not of its form ({type(error).__name__}). Make it anew."
        ) from error
    return dict(data)
