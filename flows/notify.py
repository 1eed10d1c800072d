"""A message when a flow run fails or crashes: a Prefect automation that posts to the webhook in ALPRO_NOTIFY_URL.

The address is stored as a secret of a Prefect block, because whoever knows the webhook of a chat can post to it. The body is
`{"text": ...}`, which Slack, Mattermost and most chats understand; Prefect's pages change the block for others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import flows  # noqa: F401  before Prefect: its environment

if TYPE_CHECKING:
    from prefect.automations import Automation

VARIABLE = "ALPRO_NOTIFY_URL"
NAME = "a run has failed"
BLOCK = "alpro-failed-runs"
NOT_PUSHED = "NotPushed"  # a run that is complete, but whose results did not arrive everywhere (flows/clone.py)
BAD_ENDS = ("Failed", "Crashed", "TimedOut", NOT_PUSHED)
TEXT = "{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}\n{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


async def make_notification(deployments: Sequence[UUID]) -> None:
    """Create or update the automation for runs of these deployments if ALPRO_NOTIFY_URL is set. Raises ValueError."""
    url = os.environ.get(VARIABLE)
    if not url:
        return
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"{VARIABLE} is not the address of a webhook; it begins with https://")
    from prefect.automations import Automation
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification
    from prefect.types import SecretDict

    block = CustomWebhookNotificationBlock(
        name=BLOCK, url="{{url}}", json_data={"text": "{{subject}}\n{{body}}"}, secrets=SecretDict({"url": url})
    )
    identifier = await block.save(BLOCK, overwrite=True)
    related = {"prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments]}
    trigger = EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in BAD_ENDS},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification(related),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    action = SendNotification(block_document_id=identifier, subject=f"ALPRO: {NAME}", body=TEXT)
    await save_automation(Automation(name=NAME, trigger=trigger, actions=[action]))


async def save_automation(automation: Automation) -> None:
    """Create an automation, or update the one of its name; one that a user switched off stays off."""
    from prefect import get_client

    async with get_client() as client:
        existing = await client.read_automations_by_name(automation.name)
    if existing:
        automation.id, automation.enabled = existing[0].id, existing[0].enabled
        await automation.aupdate()
    else:
        await automation.acreate()
