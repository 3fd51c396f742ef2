"""Programs and users: added and removed, their weights and limits.

The only client of an embedded scheduler is not added: it has no user, no limits, and the whole scheduler.
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox
from dispy.core.scheduling.events import AddClient, LimitUser
from dispy.core.scheduling.ids import ClientId, Seconds
from dispy.core.scheduling.lines.parties import catch_up, key, leave
from dispy.core.scheduling.state import Lines, Party, Program, State, Tenant


def on_add_client(state: State, out: Outbox, event: AddClient, now: Seconds) -> None:
    """Note a program, before it opens computations: they count as its user's. Without effect if it is known."""
    lines = state.lines
    if event.client in lines.programs:
        return
    tenant = _tenant(lines, event.user) if event.user else None
    parent = tenant.party if tenant is not None else lines.root
    lines.programs[event.client] = Program(tenant, Party(lines, event.name, parent, event.weight))
    if tenant is not None:
        tenant.programs += 1


def forget_client(lines: Lines, client: ClientId) -> None:
    """Forget a program whose computations are closed; its user, too, if that was the last one and has no limits."""
    program = lines.programs.pop(client, None)
    if program is None:
        return
    leave(program.party)
    if program.tenant is not None:
        program.tenant.programs -= 1
        _forget_unused(lines, program.tenant)


def on_limit_user(state: State, out: Outbox, event: LimitUser, now: Seconds) -> None:
    """Set the weight and the limits of a user. Jobs above a lower limit go on."""
    tenant = _tenant(state.lines, event.user)
    party = tenant.party
    before = key(party)
    party.weight = event.weight
    # What it has had counts as it did: its virtual time stays.
    party.spent_s += (before - key(party)) * party.weight
    if tenant.cpus_max is not None:
        # What a limit has kept from it is no claim.
        catch_up(party)
    tenant.cpus_max, tenant.queued_max = event.cpus_max, event.queued_max
    if tenant.held:
        state.lines.due[tenant.user] = tenant
    _forget_unused(state.lines, tenant)


def _tenant(lines: Lines, user: str) -> Tenant:
    """Returns a user, who is noted if not known."""
    tenant = lines.tenants.get(user)
    if tenant is None:
        tenant = lines.tenants[user] = Tenant(user, Party(lines, user, lines.root))
    return tenant


def _forget_unused(lines: Lines, tenant: Tenant) -> None:
    """Forget a user without programs, weight and limits."""
    has_limits = tenant.cpus_max is not None or tenant.queued_max is not None or tenant.party.weight != 1
    if not tenant.programs and not has_limits:
        lines.tenants.pop(tenant.user, None)
        leave(tenant.party)


def room_in_queue(state: State, client: ClientId) -> int | None:
    """Returns the number of jobs that a client may submit before its user has ``queued_max`` that have not ended;
    None: any number. The shell asks before it takes jobs: the core takes all."""
    program = state.lines.programs.get(client)
    if program is None or program.tenant is None or program.tenant.queued_max is None:
        return None
    return max(0, program.tenant.queued_max - program.tenant.open)
