"""The scenes, in the order they are played. None knows its outcome."""

from isochrone.cli.demo.scenes.in_bounds import bounds_hold, site_killed
from isochrone.cli.demo.scenes.in_time import audio_in_time, chat_by_openai, physics_refuses
from isochrone.cli.demo.scenes.on_record import overstep_denied, revoked, traced
from isochrone.cli.demo.scenes.seen import Scene, Seen

__all__ = ["SCENES", "Scene", "Seen"]

SCENES = (
    Scene("In time: 20 ms audio at the edge", audio_in_time),
    Scene("Any OpenAI client", chat_by_openai),
    Scene("Physics says no", physics_refuses),
    Scene("A sub-agent oversteps", overstep_denied),
    Scene("On the record", traced),
    Scene("The human revokes", revoked),
    Scene("The edge site is killed under load", site_killed),
    Scene("In bounds, whatever happens", bounds_hold),
)
