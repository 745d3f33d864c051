"""Rules that check whether a perceived image satisfies a test point."""

from itertools import permutations, product

import numpy as np
from scipy import ndimage

from worker.shapes import IMAGE_SIZE
from worker.shapes import words as w
from worker.shapes.image_content import PerceivedImage, PerceivedObject
from worker.shapes.testpoints import Rule, TestPoint

CLEARANCE = 2.0
"""Minimum distance in pixels between two centers for the relations left of, right of, above and below."""
TOUCHING, APART = 2.3, 4.5
"""Maximum distance between touching objects and minimum distance between objects that are apart, in pixels."""
LARGER = 1.3
"""Minimum ratio of the larger object's radius to the smaller object's."""
ENCLOSED = 0.9
"""Minimum share of an object that must be enclosed for it to be inside another object."""
CORNER = 14.0
"""Maximum distance in pixels from an object's center to both edges of its corner."""
MIDDLE = 4.5
"""Maximum distance in pixels from an object's center to the image center, along either axis."""
LEVEL = 2.5
"""Maximum deviation in pixels of an object's center from its row or column."""


def holds(point: TestPoint, seen: PerceivedImage) -> bool:
    """Whether the image satisfies the test point. Statements about missing objects are false."""
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
            return any(_in_position(point.value, thing) for thing in fitting[0])
        case Rule.LINE:
            return len(things) >= 2 and _in_line(point.value, things)
        case Rule.COUNTS:
            first, second = map(len, fitting)
            return second > 0 and (first == second if point.value == w.AS_MANY else first > second)
        case Rule.EITHER:
            return bool(fitting[0]) != bool(fitting[1])
        case Rule.ALIKE:
            return len(things) >= 2 and len({thing.color for thing in things}) == 1
        case Rule.BACKGROUND:
            return seen.background == point.value


def _related(name: str, one: PerceivedObject, two: PerceivedObject, seen: PerceivedImage) -> bool:
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
        case w.INSIDE:
            return _share_inside(one, two) >= ENCLOSED
        case "touching":
            return _distance(one, two) <= TOUCHING
        case "apart from":
            return _distance(one, two) >= APART
        case w.SAME_COLOR:
            return one.color == two.color
    return _related(w.MIRROR[name], two, one, seen)


def _distance(one: PerceivedObject, other: PerceivedObject) -> float:
    """Compute the distance between the nearest pixels of two objects. Adjacent pixels have distance 1."""
    return float(ndimage.distance_transform_edt(~one.mask)[other.mask].min(initial=np.inf))


def _share_inside(inner: PerceivedObject, outer: PerceivedObject) -> float:
    """Compute the share of the inner object's pixels that the outer object encloses."""
    enclosed = ndimage.binary_fill_holes(outer.mask) & ~outer.mask
    return float((inner.mask & enclosed).sum() / max(1, inner.mask.sum()))


def _in_position(name: str, thing: PerceivedObject) -> bool:
    if name == w.MIDDLE:
        return max(abs(thing.x - IMAGE_SIZE / 2), abs(thing.y - IMAGE_SIZE / 2)) <= MIDDLE
    from_top = thing.y if "top" in name else IMAGE_SIZE - thing.y
    from_side = thing.x if "left" in name else IMAGE_SIZE - thing.x
    return max(from_top, from_side) <= CORNER


def _in_line(name: str, things: tuple[PerceivedObject, ...]) -> bool:
    along = np.array([(thing.x, thing.y) if name == "row" else (thing.y, thing.x) for thing in things])
    level = bool(np.ptp(along[:, 1]) <= 2 * LEVEL)
    return level and all(abs(one[0] - two[0]) > 2 * LEVEL for one, two in permutations(along.tolist(), 2))
