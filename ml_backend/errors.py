"""What can go wrong, in sentences that name the fix. `web/app.py` turns these into HTTP in one place."""


class BackendError(Exception):
    """Base of every error a caller is meant to read. The message says what to change."""

    status = 500


class InvalidInputError(BackendError):
    """The request, file or label config cannot be used as it is."""

    status = 422


class NothingVouchedError(InvalidInputError):
    """The sample says too little, or nothing good. blind: the same for who may be among those that look at it."""

    def __init__(self, message: str, blind: str) -> None:
        super().__init__(message)
        self.blind = blind


class DamagedError(InvalidInputError):
    """Files that this service wrote are not whole any more."""


class ForbiddenError(BackendError):
    """Who asks may not: their token is missing, refused, or of somebody who does not see the project."""

    status = 403


class NotFoundError(BackendError):
    """The named project, version, task or job does not exist."""

    status = 404


class ProjectGoneError(NotFoundError):
    """Label Studio does not have the project any more; what is known of it is kept."""


class ProjectReplacedError(ProjectGoneError):
    """Label Studio has another project under this number; what is known of the former one is kept, and not used."""


class ConflictError(BackendError):
    """The request is fine, but the present state does not allow it."""

    status = 409


class AnotherStoreError(ConflictError):
    """The service, or the project in Label Studio, belongs to another store than this one: two would undo each other."""


class OtherLabelsError(ConflictError):
    """A model version was trained for other labels than the project has now."""


class NothingToAskError(ConflictError):
    """Every task is answered, skipped or unreadable: there is no next batch."""


class TurnPausedError(Exception):
    """The turn makes room for other projects and goes on later; what it is reading just now is still taken in."""


class TooLargeError(BackendError):
    """The request, or a part of it, is larger than is taken."""

    status = 413


class TooManyError(BackendError):
    """More than is kept at a time; try again once some of it is done."""

    status = 429


class ImageError(InvalidInputError):
    """One image cannot be fetched or decoded. The other images of the batch are not affected."""


class ImageAwayError(ImageError):
    """An image cannot be fetched for the time being: its host is away, slow or overloaded. It is tried again by itself.

    tried: whether it was asked for at all; not where its host is known to be away.
    """

    def __init__(self, message: str, *, tried: bool = True) -> None:
        super().__init__(message)
        self.tried = tried


class ConfigError(BackendError):
    """A setting is missing or wrong; the message lists every one at once."""


class NoWeightsError(ConfigError):
    """Published weights are not in the cache, and cannot be downloaded or are broken. reason: why, in half a sentence."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class ReadOnlyError(ConfigError):
    """What is to be kept cannot be written, and waiting does not help."""


class StoreError(BackendError):
    """What is kept cannot be read or written for the time being; it is tried again by itself."""

    status = 503


class StoreAwayError(StoreError):
    """The database does not answer, or is held by somebody else for too long."""


class DiskFullError(StoreError):
    """There is no room; what was kept before is untouched."""

    status = 507


class LabelStudioError(BackendError):
    """Label Studio refused a request; the message names the setting to change."""

    status = 502


class LabelStudioUnavailableError(LabelStudioError):
    """Label Studio cannot be reached; the work is kept and done later."""

    status = 503
