"""The only place that puts collaborators together: settings in, everything a cycle or a request needs out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ml_backend.diagnostics import Diagnosis
from ml_backend.encoders import compute
from ml_backend.encoding import Encoding
from ml_backend.hosts import Hosts, Registry
from ml_backend.images.decoding import limit_pixels
from ml_backend.insight.findings import Findings
from ml_backend.predictor import Predictor
from ml_backend.project_encoders import ProjectEncoders
from ml_backend.settings import Settings
from ml_backend.status import ProjectStatus
from ml_backend.steps.change_encoder import EncoderChange
from ml_backend.steps.encode_images import CorpusBuilder
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.acts import Acts
from ml_backend.store.database import Database
from ml_backend.store.events import Inbox
from ml_backend.store.job import Debounce, RetryPolicy
from ml_backend.store.jobs import Jobs
from ml_backend.store.known_counts import KnownCounts
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_files import ProjectFiles
from ml_backend.store.tuning import Tuning
from ml_backend.store.vectors import FeatureStore
from ml_backend.unlisted_images import UnlistedImages

if TYPE_CHECKING:
    from ml_backend.acceptance.auditing import Auditing
    from ml_backend.acceptance.certifying import Certifying
    from ml_backend.acceptance.project_rest import ProjectRest
    from ml_backend.atlas import Atlas
    from ml_backend.exports.model_files import ModelExporter
    from ml_backend.imports.trained_model import ModelImporter
    from ml_backend.manual_fields import FieldWriter
    from ml_backend.manual_queue import ManualQueue
    from ml_backend.steps.advise import Advisor
    from ml_backend.steps.first_order import FirstOrder
    from ml_backend.steps.name_guesses import NameGuesses
    from ml_backend.steps.train import Trainer

OBSERVATION = timedelta(seconds=15)


@dataclass
class Services:
    """Everything that a request or a cycle works with. One a process; unpacked at the edges and in `cycle`."""

    settings: Settings
    database: Database
    ledger: Ledger
    jobs: Jobs
    inbox: Inbox
    versions: Versions
    features: FeatureStore
    is_copy: bool = False  # the store is a copy to be thrown away, and Label Studio is not to be changed

    def __post_init__(self) -> None:
        settings = self.settings
        self.hosts = Hosts(settings)
        self.registry = Registry(self.hosts, self.ledger, self.jobs, settings)
        self.encoding = Encoding(self.ledger, self.features, self.hosts)
        unlisted = UnlistedImages(self.ledger, self.features, self.hosts)
        self.acts = Acts(self.database, clock=self.ledger.clock)
        self.known_counts = KnownCounts(self.ledger.counts)
        self.tuning = Tuning(self.database, self.jobs)
        self.acceptances = Acceptances(self.database, clock=self.ledger.clock)
        self.predictor = Predictor(self.ledger, self.versions, self.features, unlisted, self.acceptances, settings)
        self.encoders = ProjectEncoders(self.versions, self.predictor, self.encoding, settings)
        self.encoder_change = EncoderChange(self.ledger, self.features, self.encoding, self.encoders)
        self.findings = Findings()
        self.checkpoints = ProjectFiles(settings.data_dir / "checkpoints")
        self.graph_files = ProjectFiles(settings.data_dir / "graphs")
        self.map_files = ProjectFiles(settings.data_dir / "maps")
        self.point_files = ProjectFiles(settings.data_dir / "maps" / "last")
        self.name_files = ProjectFiles(settings.data_dir / "names")

    @property
    def status(self) -> ProjectStatus:
        return ProjectStatus(self.ledger, self.jobs, self.versions, self.acceptances, self.settings)

    @property
    def label_sync(self) -> LabelSync:
        return LabelSync(
            self.hosts, self.registry, self.ledger, self.inbox, self.jobs, self.versions, self.settings,
            store_id=self.database.store_id, repairs_webhooks=not self.is_copy,
        )  # fmt: skip

    @property
    def corpus_builder(self) -> CorpusBuilder:
        return CorpusBuilder(self.ledger, self.features, self.encoding, self.encoders)

    @property
    def queue_pusher(self) -> QueuePusher:
        store_id = self.database.store_id
        return QueuePusher(self.hosts, self.ledger, self.versions, self.predictor, self.settings, store_id)

    @property
    def first_order(self) -> FirstOrder:
        from ml_backend.steps.first_order import FirstOrder  # noqa: PLC0415 - torch takes seconds: a status does not wait

        return FirstOrder(self.hosts, self.ledger, self.label_sync, self.queue_pusher, self.settings)

    @property
    def trainer(self) -> Trainer:
        from ml_backend.steps.promotion import Promotion  # noqa: PLC0415 - torch
        from ml_backend.steps.train import Trainer  # noqa: PLC0415
        from ml_backend.steps.tune_network import NetworkTuner  # noqa: PLC0415
        from ml_backend.store.graphs import GraphStore  # noqa: PLC0415

        promotion = Promotion(self.versions, self.predictor, self.features, self.settings)
        tuner = NetworkTuner(self.ledger, self.encoding, self.checkpoints, self.settings, self.database.store_id)
        return Trainer(
            self.versions, self.predictor, self.ledger, self.features, GraphStore(self.graph_files), tuner, self.names,
            promotion, self.checkpoints, self.settings,
        )  # fmt: skip

    @property
    def names(self) -> NameGuesses:
        from ml_backend.steps.name_guesses import NameGuesses  # noqa: PLC0415 - torch

        return NameGuesses(self.ledger, self.versions, self.name_files, self.settings, keeps=not self.is_copy)

    @property
    def advisor(self) -> Advisor:
        from ml_backend.steps.advise import Advisor  # noqa: PLC0415 - torch

        return Advisor(self.ledger, self.versions, self.predictor, self.features)

    @property
    def manual_queue(self) -> ManualQueue:
        from ml_backend.manual_queue import ManualQueue  # noqa: PLC0415 - torch

        return ManualQueue(
            self.settings, self.ledger, self.versions, self.features, self.predictor, self.encoding,
            self.label_sync, self.corpus_builder, self.queue_pusher, self.acceptances,
        )  # fmt: skip

    @property
    def atlas(self) -> Atlas:
        from ml_backend.atlas import Atlas  # noqa: PLC0415 - safetensors
        from ml_backend.store.map_files import MapFiles  # noqa: PLC0415
        from ml_backend.store.map_points import PointFiles  # noqa: PLC0415

        files, last = MapFiles(self.map_files), PointFiles(self.point_files)
        return Atlas(
            self.database,
            self.ledger,
            self.versions,
            self.features,
            self.predictor,
            self.acceptances,
            files,
            last,
            self.settings,
        )

    @property
    def auditing(self) -> Auditing:
        from ml_backend.acceptance.auditing import Auditing  # noqa: PLC0415 - torch

        return Auditing(self.ledger, self.acceptances, lambda: self.project_rest)

    @property
    def certifying(self) -> Certifying:
        from ml_backend.acceptance.certifying import Certifying  # noqa: PLC0415 - torch

        return Certifying(self.ledger, self.acceptances, self.label_sync)

    @property
    def field_writer(self) -> FieldWriter:
        from ml_backend.manual_fields import FieldWriter  # noqa: PLC0415 - torch
        from ml_backend.opinions import Judge  # noqa: PLC0415
        from ml_backend.store.graphs import GraphStore  # noqa: PLC0415

        graphs = GraphStore(self.graph_files, keeps=not self.is_copy)
        judge = Judge(
            self.predictor, self.versions, self.ledger, self.features, graphs, self.encoders, self.names, self.settings
        )
        return FieldWriter(self.hosts, self.ledger, self.label_sync, judge, self.acceptances)

    @property
    def project_rest(self) -> ProjectRest:
        from ml_backend.acceptance.project_rest import ProjectRest  # noqa: PLC0415 - torch
        from ml_backend.store.graphs import GraphStore  # noqa: PLC0415

        graphs = GraphStore(self.graph_files, keeps=not self.is_copy)
        return ProjectRest(
            self.predictor, self.versions, self.ledger, self.features, graphs, self.label_sync, self.acceptances
        )

    @property
    def model_importer(self) -> ModelImporter:
        from ml_backend.imports.trained_model import ModelImporter  # noqa: PLC0415 - torch

        return ModelImporter(self.ledger, self.jobs, self.versions, self.encoding, self.label_sync, self.settings)

    @property
    def model_exporter(self) -> ModelExporter:
        from ml_backend.exports.finished_head import Finisher  # noqa: PLC0415 - torch
        from ml_backend.exports.model_files import ModelExporter  # noqa: PLC0415 - torch

        finisher = Finisher(self.ledger, self.features, self.versions, self.predictor, self.names, self.settings.seed)
        return ModelExporter(self.predictor, self.encoding, finisher, self.database.store_id, self.settings.seed)

    @property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis(self.hosts, self.ledger, self.jobs, self.database, self.settings)

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Open the stores named by `settings`, creating them on first use."""
        settings.make_data_dir()
        compute.choose(settings.device, settings.threads)
        limit_pixels(settings.image_megapixels * 1_000_000)
        database = Database(settings.database)
        quiet = timedelta(seconds=settings.train_after_seconds)
        jobs = Jobs(
            database,
            debounce=Debounce(settings.train_after_labels, quiet),
            retry_policy=RetryPolicy(observation=OBSERVATION),
        )
        return cls(
            settings=settings,
            database=database,
            ledger=Ledger(database, seed=settings.seed),
            jobs=jobs,
            inbox=Inbox(database, jobs),
            versions=Versions(settings.data_dir / "versions", database),
            features=FeatureStore(settings.data_dir / "features"),
        )
