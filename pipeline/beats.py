"""Heartbeats of a run, and the automation by which the server sets a run that has fallen silent to Crashed.

    create_automation()     # once per server
    with beating(): …       # one beat every BEAT_SECS

Prefect's own heartbeats would hold up the end of every run for up to a second, and nobody looks at them without an
automation. It concerns runs with the tag `heartbeat` alone: other flows, and older versions of this one, send none.
"""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.related import tags_as_related_resources
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

BEAT_SECS, SILENT_SECS = 20, 90  # a beat or three may be late
TAG, NAME = "heartbeat", "semtok: silent runs have crashed"
BEAT, BEGUN = "prefect.flow-run.heartbeat", "prefect.flow-run.Running"
ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Refused", "Cancelled", "Crashed")}
MESSAGE = f"no sign of life for {SILENT_SECS} s: its process was killed. Run the same command again: it continues."


def create_automation() -> None:
    """Let the server call silent runs Crashed, if it does not so yet."""
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(NAME):
            client.create_automation(automation())


def automation() -> AutomationCore:
    """After the beginning of a run and after each beat: another beat, or an end, or the run has crashed."""
    trigger = EventTrigger(
        after={BEGUN, BEAT}, expect={BEAT, *ENDS}, for_each={"prefect.resource.id"}, posture=Posture.Proactive,
        threshold=1, within=timedelta(seconds=SILENT_SECS),
        match_related=ResourceSpecification.model_validate({"prefect.resource.id": f"prefect.tag.{TAG}"}),
    )  # fmt: skip
    crash = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=MESSAGE)
    return AutomationCore(name=NAME, trigger=trigger, actions=[crash])


@contextmanager
def beating(flow_run_id: UUID) -> Generator[None]:
    """Beat until the end of the block, which waits for nothing."""
    ended = threading.Event()
    threading.Thread(target=copy_context().run, args=(beat, flow_run_id, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def beat(flow_run_id: UUID, ended: threading.Event) -> None:
    """The first beat makes sure of the automation: somebody else may have started the server."""
    known = False
    while not ended.wait(BEAT_SECS):
        try:
            if not known:
                create_automation()
            known = True
            resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"}
            emit_event(BEAT, resource, related=tags_as_related_resources({TAG}))
        except Exception as error:  # a stage must not fail because the server does
            logging.getLogger(__name__).debug("no heartbeat: %s", error)
