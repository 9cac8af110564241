"""Do a patch accuracy and a mean IoU fit each other? (Paper, section 4: 96.51 % and 72.3 % on Pascal VOC.)

K classes hold the shares p_1 ... p_K of all pixels. A confusion matrix with accuracy a misses e_k of class k and gives
it the mass f_k of other classes' pixels, so that

    IoU_k = (p_k - e_k) / (p_k + f_k),    sum e = sum f = 1 - a,    0 <= e_k <= p_k,    0 <= f_k,    e_k + f_k <= 1 - a.

The last condition says that an error on class k is not a prediction of k: a matrix with these margins and an empty
diagonal exists exactly then. `lowest_miou` and `highest_miou` solve the two problems, min and max of the mean of IoU_k.

The minimum without the last condition: for given f the problem is linear in e, so at most one class is missed in part;
and if class i is missed whole while a smaller class j is not, exchanging their roles never raises the sum, so the
smallest classes are missed whole, one in part, the others not at all. For given e the problem is convex in f, and its
solution is f_k = max(0, sqrt(m_k) s - p_k) with m = p - e and one number s. The last condition can bind for one class
only (or for two, which then hold all errors), and that class's e_k is searched on a line.

The maximum is convex in f, so f lies at a corner: class b takes (1 - a) - e_b and another class c the rest, e_b; e is
linear again, so the largest p + f is missed first. e_b is searched on a line for every pair of classes.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy.optimize import brentq, minimize_scalar

LINE = 33  # places along a line before the search is refined


def lowest_miou(shares: np.ndarray, accuracy: float) -> float:
    """The lowest mean IoU that any confusion matrix with this accuracy has; shares [K], summing to 1."""
    errors = 1 - accuracy
    total, missed, taken = fewest_right(shares, errors, errors)
    if (missed + taken <= errors + 1e-12).all():
        return total / len(shares)
    of_others = np.vectorize(lambda *others: fewest_right(*others)[0], signature="(k),(),()->()")
    return lowest_on_lines(with_all_errors(shares, errors, of_others)) / len(shares)


def highest_miou(shares: np.ndarray, accuracy: float) -> float:
    """The highest mean IoU that any confusion matrix with this accuracy has."""
    lines = with_all_errors(shares, 1 - accuracy, lambda *others: -most_right(*others), sign=-1)
    return -lowest_on_lines(lines) / len(shares)


def with_all_errors(
    shares: np.ndarray, errors: float, of_others: Callable, sign: int = 1
) -> Iterator[tuple[Callable, float, float]]:
    """For each class k, if e_k + f_k are all errors: the sum of IoU_k, times sign, as a function of places e_k, and the
    ends of its line.

    of_others: the sum of the other classes' IoU, times sign, from their shares and their totals of e and f.
    """
    for k, share in enumerate(shares):
        others = np.delete(shares, k)

        def total(e: np.ndarray, share=share, others=others) -> np.ndarray:
            return sign * (share - e) / (share + errors - e) + of_others(others, errors - e, e)

        yield total, max(0.0, errors - others.sum()), min(share, errors)


def spread_miou(shares: np.ndarray, accuracy: float) -> float:
    """The mean IoU when every pixel is as likely to be wrong and every wrong class as likely."""
    taken = (1 - accuracy) * (1 - shares) / (len(shares) - 1)
    return float((accuracy * shares / (shares + taken)).mean())


def highest_accuracy(shares: np.ndarray, miou: float) -> float:
    """The highest accuracy at which a mean IoU is still possible: where `lowest_miou` reaches it."""
    return float(brentq(lambda accuracy: lowest_miou(shares, accuracy) - miou, 0.0, 1.0))


def fewest_right(shares: np.ndarray, missed: float, taken: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The lowest sum of IoU_k with these totals of e and f, and e [K] and f [K], classes from small to large, where
    e_k + f_k is not bounded.
    """
    p = np.sort(shares)
    e = np.clip(missed - (p.cumsum() - p), 0, p)
    f = np.zeros_like(p)
    alive = np.flatnonzero(p > e)
    if taken > 0 and len(alive):
        right = (p - e)[alive]
        order = alive[np.argsort(-right / p[alive] ** 2, kind="stable")]  # who takes first
        roots = np.sqrt((p - e)[order])
        levels = (taken + p[order].cumsum()) / roots.cumsum()  # s, if only the first n classes take anything
        n = int(np.flatnonzero(levels * roots >= p[order]).max()) + 1
        f[order[:n]] = levels[n - 1] * roots[:n] - p[order[:n]]
    return float(((p - e) / (p + f)).sum()), e, f


def most_right(shares: np.ndarray, missed: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The highest sum of IoU_k with these totals of e and f, [...] each, all of f on one class."""
    p = shares + np.multiply.outer(taken, np.eye(len(shares)))  # [..., class that takes, K]: p + f
    order = np.argsort(-p, axis=-1, kind="stable")
    sizes, own = np.take_along_axis(p, order, -1), shares[order]
    e = np.clip(np.asarray(missed)[..., None, None] - (own.cumsum(-1) - own), 0, own)
    return ((own - e) / sizes).sum(-1).max(-1)


def lowest_on_lines(lines: Iterable[tuple[Callable, float, float]]) -> float:
    """The minimum of several functions, each over its [low, high]: the best of LINE places, refined between its
    neighbours, the most promising lines first; a line whose best place is further from the minimum found than from its
    neighbours is left as it is.
    """
    found = []
    for function, low, high in lines:
        places = np.linspace(low, high, LINE)
        values = function(places)
        best = int(np.argmin(values))
        near = slice(max(best - 1, 0), best + 2)
        found.append((values[best], values[near].max(), places[near][[0, -1]], function))
    lowest = min(value for value, *_ in found)
    for value, neighbour, ends, function in sorted(found, key=lambda one: one[0]):
        if 2 * value - neighbour <= lowest and ends[0] < ends[1]:
            refined = minimize_scalar(function, bounds=ends, method="bounded", options={"xatol": 1e-10})
            lowest = min(lowest, float(refined.fun))
    return float(lowest)


def as_background(shares: np.ndarray, accuracy: float, miou: float) -> tuple[float, float]:
    """The share of the classes' own pixels that must be predicted as background to bring the mean IoU down to `miou`,
    when background pixels aren't counted: the least possible, and if every pixel is as likely to be.

    accuracy: of the pixels before any becomes background.
    """
    errors = 1 - accuracy
    taken = errors * (1 - shares) / (len(shares) - 1)
    least = crossing(lambda x: fewest_right(shares, errors + x, errors)[0] / len(shares), miou)
    spread = crossing(lambda x: (accuracy * (1 - x) * shares / (shares + (1 - x) * taken)).mean(), miou)
    return least, spread


def from_background(shares: np.ndarray, background: float, accuracy: float, miou: float) -> tuple[float, float]:
    """The share of the background's pixels that must be predicted as some class to bring the classes' mean IoU down to
    `miou`, when background is counted as a target: the least possible, and if they spread over the classes by their
    sizes. background: its share of all pixels; shares, accuracy: of the others.
    """
    errors, pixels = 1 - accuracy, background / (1 - background)  # in units of the classes' pixels
    taken = errors * (1 - shares) / (len(shares) - 1)
    least = crossing(lambda x: fewest_right(shares, errors, errors + x * pixels)[0] / len(shares), miou)
    spread = crossing(lambda x: (accuracy * shares / (shares + taken + x * pixels * shares)).mean(), miou)
    return least, spread


def crossing(falling: Callable[[float], float], level: float) -> float:
    """Where in [0, 1] a falling function reaches the level: 0 if it starts below it."""
    return 0.0 if falling(0.0) <= level else float(brentq(lambda x: falling(x) - level, 0.0, 1.0))


def low_mean_over_images(areas: list[list[int]], accuracy: float) -> float:
    """A mean over images of each image's mean IoU over its own classes that predictions with this accuracy can have: it
    is reached by confusing whole areas with another class of their image, those first that cost most for their pixels.

    areas: for each image the pixels of its classes. The lowest such mean is at most this and at least
    `bound_of_mean_over_images`.
    """
    wrong = []
    for sizes in areas:
        first, *others = sorted(sizes)
        loss = 1 + (first / (first + others[0]) if others else 0)  # its own IoU, and that of the class that takes it
        wrong.append((loss / len(sizes) / first, first))
    errors, lost = (1 - accuracy) * sum(map(sum, areas)), 0.0
    for rate, pixels in sorted(wrong, reverse=True):
        if pixels <= errors + 1e-6:  # rounding apart
            errors, lost = errors - pixels, lost + rate * pixels
    return 1 - lost / len(areas)


def bound_of_mean_over_images(areas: list[list[int]], accuracy: float) -> float:
    """A mean over images as in `low_mean_over_images` that no predictions with this accuracy are below.

    By Lagrangian duality: each wrong pixel costs a price, and the loss left after paying is at most `most_gained`.
    """
    errors = (1 - accuracy) * sum(map(sum, areas))
    sizes = [np.array(image, float) for image in areas]

    def loss(log_price: float) -> float:
        price = np.exp(log_price)
        return price * errors + sum(most_gained(n, price * len(n)) / len(n) for n in sizes)

    found = minimize_scalar(loss, bounds=(-np.log(sum(map(sum, areas))), 0), method="bounded")
    return 1 - found.fun / len(areas)


def most_gained(n: np.ndarray, price: float) -> float:
    """An upper bound of an image's summed losses of IoU, less price times its wrong pixels; n [K] pixels a class.

    A share mu of the price is paid by the class that takes a pixel, the rest by the class that loses it; then each
    class alone gains most by being missed whole, or by taking f pixels: f / (n + f) - mu f is largest at
    (1 - sqrt(mu n))^2. Every mu gives a bound. An image of one class has none that takes.
    """
    if len(n) == 1:
        return max(0.0, 1 - price * n[0])
    mu = price * np.linspace(0, 1, LINE)[:, None]
    taking = np.maximum(0, 1 - np.sqrt(mu * n)) ** 2
    return np.maximum(taking, 1 - (price - mu) * n).sum(1).min()


def images_with_a_stray_class(areas: list[list[int]], miou: float) -> float:
    """The share of images that need a single pixel of a class they don't have to bring the mean over images down to
    `miou`, if an image's mean is over the classes in it or in its prediction: a stray class counts as 0.
    """
    losses = np.sort([1 / (len(sizes) + 1) for sizes in areas])[::-1].cumsum() / len(areas)
    return float((losses < 1 - miou).sum() + 1) / len(areas)


def surely_right(areas: list[list[int]]) -> float:
    """The share of pixels that are right whatever is predicted when only an image's own classes are offered."""
    return sum(sizes[0] for sizes in areas if len(sizes) == 1) / sum(map(sum, areas))
