"""Users, organisations and access tokens of the test Hub, and who may do what."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .errors import (
    expired_token,
    forbidden,
    gated,
    invalid_credentials,
    repo_not_found,
    unauthenticated,
)
from .store import Repo


@dataclass
class Token:
    """An access token: whose it is and what it may do."""

    value: str
    user: str
    role: str = "write"
    name: str = "test token"
    expired: bool = False


class Accounts:
    """The people of the Hub."""

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.orgs: dict[str, set[str]] = {}
        self.tokens: dict[str, Token] = {}

    def add_token(self, user: str, role: str = "write", *, expired: bool = False) -> str:
        """Issue a token (role "read" or "write"); makes the user when new. Returns its value."""
        self.users.add(user)
        value = f"hf_{user}_{role}_{secrets.token_hex(8)}"
        self.tokens[value] = Token(value, user, role, f"{user}-{role}", expired)
        return value

    def add_org(self, name: str, *members: str) -> None:
        """Make an organisation whose members may all write."""
        self.users.update(members)
        self.orgs[name] = set(members)

    def expire(self, value: str) -> None:
        """Let a token's expiry date pass."""
        self.tokens[value].expired = True

    def revoke(self, value: str) -> None:
        """Forget a token: it is then as unknown as an invented one."""
        del self.tokens[value]

    def authenticate(self, authorization: str | None) -> Token | None:
        """Token of an Authorization header; None without one; 401 when it is no good."""
        if not authorization:
            return None
        scheme, _, value = authorization.partition(" ")
        token = self.tokens.get(value.strip())
        if scheme.lower() != "bearer" or token is None:
            raise invalid_credentials()
        if token.expired:
            raise expired_token(token.name)
        return token

    def belongs(self, user: str, namespace: str) -> bool:
        """Whether a user owns a namespace or is a member of that organisation."""
        return user == namespace or user in self.orgs.get(namespace, ())

    def require_user(self, token: Token | None) -> Token:
        """Raise 401 unless somebody is logged in."""
        if token is None:
            raise unauthenticated()
        return token

    def require_namespace(self, token: Token | None, namespace: str, what: str) -> Token:
        """Raise unless the token may create or delete things in a namespace."""
        token = self.require_user(token)
        if token.role != "write" or not self.belongs(token.user, namespace):
            rights = f'You don\'t have the rights to {what} under the namespace "{namespace}"'
            raise forbidden(rights)
        return token

    def require_read(self, token: Token | None, repo: Repo | None) -> Repo:
        """Raise unless the repository exists and may be seen; the two look alike on purpose."""
        visible = repo is not None and (
            not repo.private or (token is not None and self.belongs(token.user, repo.namespace))
        )
        if repo is None or not visible:
            raise unauthenticated() if token is None else repo_not_found()
        return repo

    def may_write(self, token: Token | None, repo: Repo) -> bool:
        """Whether a token may commit to a repository's branches."""
        if token is None or token.role != "write":
            return False
        return self.belongs(token.user, repo.namespace)

    def require_write(self, token: Token | None, repo: Repo, *, create_pr: bool = False) -> Token:
        """Raise unless the token may commit, or (`create_pr`) propose a commit."""
        token = self.require_user(token)
        if self.may_write(token, repo) or (create_pr and token.role == "write"):
            return token
        if token.role == "write" and not create_pr:
            raise forbidden(
                "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
            )
        raise forbidden("Authorization error.")

    def require_content(self, token: Token | None, repo: Repo) -> None:
        """Raise unless the files of a gated repository may be read."""
        if not repo.gated:
            return
        if token is None:
            raise gated(repo.id, repo.type, authenticated=False)
        if not (self.belongs(token.user, repo.namespace) or token.user in repo.granted):
            raise gated(repo.id, repo.type, authenticated=True)
