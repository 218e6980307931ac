"""Answers worked out anew, from the text of a question and where the objects' centres are."""

from vlm_probe.scenes import Question, Scene, SceneObject

NUMBERS = ("zero", "one", "two", "three", "four", "five")
THIRD = 1 / 3


def stands(a: SceneObject, relation: str, b: SceneObject) -> bool:
    """Columns and rows count, not what lies a little to the left: centres stray less than half a place."""
    x, y = a.center[0] - b.center[0], a.center[1] - b.center[1]
    return {"left": x < -THIRD / 2, "right": x > THIRD / 2, "above": y < -THIRD / 2, "below": y > THIRD / 2}[relation]


def true_answer(scene: Scene, question: Question) -> str:
    words = question.text.rstrip("?").split()
    objects = scene.objects

    def the(word: str) -> SceneObject:
        """The only object of a shape, or of a color."""
        (found,) = (o for o in objects if word in (o.shape, o.color))
        return found

    def number_of(word: str) -> str:
        shape = {"crosses": "cross"}.get(word, word.removesuffix("s"))
        return NUMBERS[sum(word == "objects" or o.color == word or o.shape == shape for o in objects)]

    if question.kind == "color":
        return the(words[-1]).color
    if question.kind == "shape":
        return the(words[-2]).shape
    if question.kind == "existence":
        return "yes" if any((o.color, o.shape) == (words[3], words[4]) for o in objects) else "no"
    if question.kind == "count":
        return number_of(words[2])
    if question.kind == "attribute":
        return "yes" if the(words[2]).color == words[3] else "no"
    if question.kind == "number":
        return "yes" if number_of(words[4]) == words[-1] else "no"
    if question.kind == "parts":
        about = the(words[4].rstrip(","))
        return f"{about.color}, {'left' if about.center[0] < 0.5 else 'right'}"
    if question.kind in ("color_beside", "shape_beside"):
        anchor = the(words[-1] if question.kind == "color_beside" else words[-2])
        (found,) = (o for o in objects if stands(o, words[5], anchor))
        return found.color if question.kind == "color_beside" else found.shape
    if question.kind == "count_beside":
        return NUMBERS[sum(stands(o, words[4], the(words[-1])) for o in objects)]
    if question.kind == "same_color":
        return "yes" if the(words[2]).color == the(words[-1]).color else "no"
    named = {o.name: o for o in objects}
    first = named[f"{words[2]} {words[3]}"]
    if question.kind == "position":
        return "yes" if words[-1] == ("left" if first.center[0] < 0.5 else "right") else "no"
    if question.kind == "side":
        return "left" if first.center[0] < 0.5 else "right"
    return "yes" if stands(first, words[4], named[f"{words[-2]} {words[-1]}"]) else "no"
