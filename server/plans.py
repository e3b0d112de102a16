"""From the configuration of a run and the sites that came to what each of them is asked."""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from mtmd_core.config import RunConfig, share_of_batch
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, shapes, take
from mtmd_core.strategies import Sharing, label_spaces, strategy_named
from mtmd_core.wire import PLAN, SHARED, RoundPlan, SiteFacts, array_shape, encode_array, to_record

from .run_store import Arrays


class Plans:
    """What the coordinator knows of a run before it begins.

    ``expected``: dtype and shape of every shared parameter; ``initial``: their first values.

    Args:
        run: name of the run.
        config: of the run.
        sites: what the sites said at roll call.
    """

    def __init__(self, run: str, config: RunConfig, sites: Mapping[str, SiteFacts]) -> None:
        self.run = run
        self.config = config
        self.sharing = strategy_named(config.strategy).sharing
        self.sites = sorted(sites)
        self.quorum = config.federation.quorum or len(sites)
        if self.quorum > len(sites):
            raise ConfigurationError(
                f"federation.quorum is {self.quorum}, but {len(sites)} sites take part: it can be {len(sites)} at most."
            )
        self.spaces = label_spaces(self.sharing, {site: facts.structures for site, facts in sites.items()})
        alone = self.sharing is Sharing.NOTHING
        self.share = share_of_batch(config.training.batch_size, 1 if alone else len(sites))
        network = build_network(config.network, self._known_domains(), config.seed)
        names = partition(network, self.sharing).shared
        self.expected = shapes(network, names)
        self.initial: Arrays = take(network, names)

    def content(
        self,
        site: str,
        round_: int,
        shared: ArrayRecord,
        best_round: int,
        validate: bool = False,
        test: bool = False,
    ) -> RecordDict:
        """The records of one message to one site."""
        plan = self.plan(site, round_, best_round, validate, test)
        return RecordDict({PLAN: ConfigRecord(to_record(plan)), SHARED: shared})

    def plan(self, site: str, round_: int, best_round: int, validate: bool = False, test: bool = False) -> RoundPlan:
        """What one site is asked in one visit."""
        config, space = self.config, self.spaces[site]
        return RoundPlan(
            run=self.run,
            round=round_,
            strategy=config.strategy,
            network=config.network.name,
            width=config.network.width,
            encoder_weights=config.network.encoder_weights,
            slice_size=config.data.slice_size,
            slice_axis=config.data.slice_axis,
            fold=config.fold,
            seed=config.seed,
            local_steps=config.federation.local_steps,
            share=self.share,
            learning_rate=config.training.learning_rate,
            augment=config.training.augment,
            autocast=config.training.autocast,
            calibration_batches=config.federation.calibration_batches,
            validate=validate,
            test=test,
            best_round=best_round,
            label_offset=space.offset,
            label_classes=space.classes if self.sharing is Sharing.EVERYTHING else 0,
        )

    def _known_domains(self) -> dict[str, int]:
        """The domains of the coordinator's own network: none, unless everything is shared."""
        if self.sharing is not Sharing.EVERYTHING:
            return {}
        return {space.domain: space.classes for space in self.spaces.values()}


def pack(arrays: Arrays) -> ArrayRecord:
    """Arrays as a record of a message."""
    return ArrayRecord(
        {name: Array(*array_shape(array), "numpy.ndarray", encode_array(array)) for name, array in arrays.items()}
    )
