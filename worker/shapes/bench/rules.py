"""Whether what is seen in an image meets a test point."""

from itertools import permutations, product

import numpy as np

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench import words as say
from worker.shapes.bench.points import Rule, TestPoint
from worker.shapes.bench.seen import Seen, SeenImage, distance, share_inside
from worker.shapes.verifier import CLEARANCE

TOUCHING, APART = 2.3, 4.5
"""Distance in pixels up to which two objects touch, and from which they are apart."""
LARGER = 1.3
"""Least ratio of the radii of a larger object and a smaller one."""
ENCLOSED = 0.9
"""Least share of an object that is inside another."""
CORNER = 14.0
"""Largest distance in pixels of an object's centre to both edges of its corner."""
MIDDLE = 4.5
"""Largest distance in pixels, along either axis, of an object's centre to the image's middle."""
LEVEL = 2.5
"""Largest deviation in pixels of an object's centre from its line's."""


def holds(point: TestPoint, seen: SeenImage) -> bool:
    """Whether the image meets the test point. What is said of an object that is not there is false."""
    things, matches = seen.objects, point.matches
    fitting = [[thing for thing in things if match.fits(thing)] for match in matches]
    match point.rule:
        case Rule.ALL:
            return 0 < len(fitting[0]) == len(things)
        case Rule.EACH:
            return any(len(set(map(id, chosen))) == len(matches) for chosen in product(*fitting))
        case Rule.COUNT:
            return len(fitting[0]) == int(point.value)
        case Rule.NONE:
            return bool(things) and not fitting[0]
        case Rule.ONLY:
            return bool(fitting[0]) and not fitting[1]
        case Rule.RELATION:
            return any(_related(point.value, one, two, seen) for one, two in product(*fitting) if one is not two)
        case Rule.PLACE:
            return any(_in_place(point.value, thing) for thing in fitting[0])
        case Rule.LINE:
            return len(things) >= 2 and _in_line(point.value, things)
        case Rule.COUNTS:
            first, second = map(len, fitting)
            return second > 0 and (first == second if point.value == say.AS_MANY else first > second)
        case Rule.EITHER:
            return bool(fitting[0]) != bool(fitting[1])
        case Rule.ALIKE:
            return len(things) >= 2 and len({thing.colour for thing in things}) == 1


def _related(name: str, one: Seen, two: Seen, seen: SeenImage) -> bool:
    right, down = two.x - one.x, two.y - one.y
    match name:
        case "left of":
            return right >= CLEARANCE and right > abs(down)
        case "above":
            return down >= CLEARANCE and down > abs(right)
        case "in front of":
            return two.hidden_by is not None and seen.objects[two.hidden_by] is one
        case "larger than":
            return one.radius >= LARGER * two.radius
        case say.INSIDE:
            return share_inside(one, two) >= ENCLOSED
        case "touching":
            return distance(one, two) <= TOUCHING
        case "apart from":
            return distance(one, two) >= APART
        case say.SAME_COLOUR:
            return one.colour == two.colour
    return _related(say.MIRROR[name], two, one, seen)


def _in_place(name: str, thing: Seen) -> bool:
    if name == say.MIDDLE:
        return max(abs(thing.x - IMAGE_SIZE / 2), abs(thing.y - IMAGE_SIZE / 2)) <= MIDDLE
    from_top = thing.y if "top" in name else IMAGE_SIZE - thing.y
    from_side = thing.x if "left" in name else IMAGE_SIZE - thing.x
    return max(from_top, from_side) <= CORNER


def _in_line(name: str, things: tuple[Seen, ...]) -> bool:
    along = np.array([(thing.x, thing.y) if name == "row" else (thing.y, thing.x) for thing in things])
    level = bool(np.ptp(along[:, 1]) <= 2 * LEVEL)
    return level and all(abs(one[0] - two[0]) > 2 * LEVEL for one, two in permutations(along.tolist(), 2))
