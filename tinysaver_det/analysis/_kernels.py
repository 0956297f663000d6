"""The compiled loops of the analysis. Imported when first needed, since compilers take their time.

Everything here releases the interpreter's lock, so that threads run side by side.
"""

import numpy as np

from ..errors import ConfigError

try:
    from numba import njit
except ImportError as e:
    raise ConfigError('the analysis needs numba: pip install "tinysaver-det[analysis]"') from e

def compiled(function):
    """Compile, and keep what was compiled where there is a folder for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # an installation and a home that cannot be written to
        return njit(nogil=True)(function)


# pycocotools' own thresholds, made the same way: they differ from 0.55, 0.6 ... in the last bit
IOUS = np.linspace(.5, .95, 10)
RECALLS = np.linspace(.0, 1., 101)


@compiled
def match(dt_start, dt_end, gt_start, gt_end, dt_boxes, gt_boxes, gt_areas, gt_crowd, gt_zero, ranges, ious, max_dets,
          tp, ignored, rank):
    """Match the boxes of each (image, class) group with its objects, as pycocotools' evaluateImg does.

    Args:
        dt_start, dt_end, gt_start, gt_end: (P,) int64, each group's rows; boxes from high to low score, objects in the
            file's order.
        dt_boxes, gt_boxes: (N, 4) and (G, 4) float64 xywh.
        gt_areas: (G,) float64. gt_crowd, gt_zero: (G,) bool.
        ranges: (A, 2) float64, areas from and to.
        ious: (T,) float64.
        max_dets: Boxes that count in a group.
        tp, ignored: (A, N) uint16, to be filled: bit t is set where the box is a hit, or doesn't count, at IoU t.
        rank: (N,) int32, to be filled: place in the group; -1 from ``max_dets`` on.
    """
    for p in range(len(dt_start)):
        first, n = dt_start[p], dt_end[p] - dt_start[p]
        for d in range(n):
            rank[first + d] = d if d < max_dets else -1
        n = min(n, max_dets)
        start, g = gt_start[p], gt_end[p] - gt_start[p]
        overlap = np.empty((n, g))
        for d in range(n):
            x, y, w, h = dt_boxes[first + d]
            for k in range(g):
                u, v, s, t = gt_boxes[start + k]
                both_w = min(x + w, u + s) - max(x, u)
                both_h = min(y + h, v + t) - max(y, v)
                if both_w <= 0 or both_h <= 0:
                    overlap[d, k] = 0.0
                else:
                    both = both_w * both_h
                    whole = w * h if gt_crowd[start + k] else w * h + s * t - both
                    overlap[d, k] = both / whole
        order = np.empty(g, np.int64)
        skip = np.empty(g, np.bool_)
        taken = np.empty(g, np.bool_)
        for a in range(len(ranges)):
            low, high = ranges[a, 0], ranges[a, 1]
            at = 0
            for wanted in (False, True):  # those that count come first
                for k in range(g):
                    ignore = gt_crowd[start + k] or gt_areas[start + k] < low or gt_areas[start + k] > high
                    if ignore == wanted:
                        order[at] = k
                        skip[at] = ignore
                        at += 1
            for t in range(len(ious)):
                bit = np.uint16(1 << t)
                taken[:] = False
                for d in range(n):
                    best = min(ious[t], 1 - 1e-10)
                    found = -1
                    for m in range(g):
                        k = order[m]
                        if taken[m] and not gt_crowd[start + k]:
                            continue
                        if found > -1 and not skip[found] and skip[m]:
                            break
                        if overlap[d, k] < best:
                            continue
                        best = overlap[d, k]
                        found = m
                    hit = False
                    if found > -1:
                        taken[found] = True
                        hit = not gt_zero[start + order[found]]
                        if skip[found]:
                            ignored[a, first + d] |= bit
                    if hit:
                        tp[a, first + d] |= bit
                    else:
                        area = dt_boxes[first + d, 2] * dt_boxes[first + d, 3]
                        if area < low or area > high:
                            ignored[a, first + d] |= bit
            for d in range(n):
                tp[a, first + d] &= ~ignored[a, first + d]


@compiled
def grouped(keys, count):
    """Rows by key: (count + 1,) where each begins, and (N,) the rows; keys below 0 are left out."""
    start = np.zeros(count + 1, np.int64)
    for i in range(len(keys)):
        if keys[i] >= 0:
            start[keys[i] + 1] += 1
    for k in range(count):
        start[k + 1] += start[k]
    place = start[:-1].copy()
    rows = np.empty(start[-1], np.int64)
    for i in range(len(keys)):
        if keys[i] >= 0:
            rows[place[keys[i]]] = i
            place[keys[i]] += 1
    return start, rows


@compiled
def compress(image, option, rank, tp, ignored, everywhere):
    """Split one class's ranked boxes into rows that matter one by one and plain false positives between them.

    A box that is a hit at some IoU, or doesn't count at some but not all, stays a row. One that is a false positive at
    every IoU only adds to how many came before the next row, whichever it is: the *gap* before that row. Those behind
    the last hit change nothing, nor do boxes that never count.

    Args:
        image, option: (N,) of each box, in the order of the class's ranking over all options.
        rank: (N,) place of the box in its image and class.
        tp, ignored: (N,) bits.
        everywhere: The bits of all IoUs.

    Returns:
        tuple: (R,) image, option, rank, tp, fp of the rows; (F,) image, option and gap of the false positives.
    """
    last = -1
    for i in range(len(image)):
        if tp[i] & everywhere:
            last = i
    rows = falses = 0
    for i in range(last + 1):
        false = everywhere & ~(tp[i] | ignored[i])
        if false == everywhere:
            falses += 1
        elif (tp[i] & everywhere) or false:
            rows += 1
    r_image, r_option, r_rank = np.empty(rows, np.int32), np.empty(rows, np.int8), np.empty(rows, np.int8)
    r_tp, r_fp = np.empty(rows, np.uint16), np.empty(rows, np.uint16)
    f_image, f_option, f_gap = np.empty(falses, np.int32), np.empty(falses, np.int8), np.empty(falses, np.int32)
    r = f = 0
    for i in range(last + 1):
        false = everywhere & ~(tp[i] | ignored[i])
        if false == everywhere:
            f_image[f], f_option[f], f_gap[f] = image[i], option[i], r
            f += 1
        elif (tp[i] & everywhere) or false:
            r_image[r], r_option[r], r_rank[r] = image[i], option[i], rank[i]
            r_tp[r], r_fp[r] = tp[i] & everywhere, false
            r += 1
    return r_image, r_option, r_rank, r_tp, r_fp, f_image, f_option, f_gap


@compiled
def accumulate(active, gap, tp, fp, rank, objects, ious, recalls, precision, reached, out):
    """AP and AR of one class and area range from its active rows; see :func:`walk`.

    Precision counts at hits only, since nowhere else is its envelope reached, nor a recall. ``out`` gets the mean AP,
    AP at the first and at the sixth IoU (0 with fewer), and the mean recall of the first 1, 10 and 100 boxes an image.
    """
    counts = len(ious)
    hits = np.zeros(counts, np.int64)
    falses = np.zeros(counts, np.int64)
    used = np.zeros(counts, np.int64)
    before = 0
    first = ten = 0
    for r in range(len(active)):
        before += gap[r]
        w = active[r]
        if w == 0:
            continue
        for t in range(counts):
            bit = np.uint16(1 << ious[t])
            if tp[r] & bit:
                hits[t] += w
                n = used[t]
                precision[t, n] = hits[t] / (hits[t] + falses[t] + before)
                reached[t, n] = hits[t]
                used[t] = n + 1
                if rank[r] < 10:
                    ten += w
                    if rank[r] < 1:
                        first += w
            elif fp[r] & bit:
                falses[t] += w
    mean, hundred = 0.0, 0
    for t in range(counts):
        n = used[t]
        hundred += hits[t]
        total, best, at = 0.0, 0.0, len(recalls) - 1
        while at >= 0 and n > 0 and recalls[at] > reached[t, n - 1] / objects:
            at -= 1
        for k in range(n - 1, -1, -1):
            best = max(best, precision[t, k])
            below = reached[t, k - 1] / objects if k > 0 else 0.0
            while at >= 0 and recalls[at] > below:
                total += best
                at -= 1
        if n > 0 and at >= 0:
            total += best  # a recall of 0
        value = total / len(recalls)
        mean += value
        if t == 0:
            out[1] = value
        elif t == 5:
            out[2] = value
    out[0] = mean / counts
    scale = 1 / (objects * counts)
    out[3], out[4], out[5] = first * scale, ten * scale, hundred * scale


@compiled
def walk(r_image, r_option, r_rank, r_tp, r_fp, f_image, f_option, f_gap, r_start, r_rows, f_start, f_rows,
         objects, routing, weights, flip_at, flip_image, flip_option, points, ious, recalls, out):
    """AP and AR of one class and area range at every point of a walk over routings.

    Args:
        r_*, f_*: What :func:`compress` gives; ``r_start``, ``r_rows``, ``f_start``, ``f_rows``: the same by image.
        objects: (I,) int32, objects of an image that count.
        routing: (I,) int8, the option that answers each image at first; -1 = the image is not there at all.
        weights: (I,) int32, how many times an image counts.
        flip_at, flip_image, flip_option: (F,) the changes of the routing: from point ``flip_at`` on, ascending.
        points: Number of points.
        ious: (T,) indices of IoUs.
        out: (points, 6), to be filled as by :func:`accumulate`; NaN where no object counts.
    """
    rows = len(r_image)
    now = routing.copy()
    active, gap = np.zeros(rows, np.int32), np.zeros(rows + 1, np.int32)
    precision, reached = np.empty((len(ious), rows + 1)), np.empty((len(ious), rows + 1), np.int64)
    for r in range(rows):
        if now[r_image[r]] == r_option[r]:
            active[r] = weights[r_image[r]]
    for f in range(len(f_image)):
        if now[f_image[f]] == f_option[f]:
            gap[f_gap[f]] += weights[f_image[f]]
    total = 0
    for i in range(len(objects)):
        if now[i] >= 0:
            total += objects[i] * weights[i]
    flip = 0
    for p in range(points):
        changed = p == 0
        while flip < len(flip_at) and flip_at[flip] <= p:
            i, new = flip_image[flip], flip_option[flip]
            old, w = now[i], weights[i]
            flip += 1
            if old == new:
                continue
            now[i] = new
            if w == 0:
                continue
            if (old < 0) != (new < 0) and objects[i]:
                total += objects[i] * w if old < 0 else -objects[i] * w
                changed = True
            for k in range(r_start[i], r_start[i + 1]):
                r = r_rows[k]
                if r_option[r] == old or r_option[r] == new:
                    active[r] = w if r_option[r] == new else 0
                    changed = True
            for k in range(f_start[i], f_start[i + 1]):
                f = f_rows[k]
                if f_option[f] == old:
                    gap[f_gap[f]] -= w
                    changed = True
                elif f_option[f] == new:
                    gap[f_gap[f]] += w
                    changed = True
        if not changed:
            out[p] = out[p - 1]
        elif total == 0:
            out[p] = np.nan
        else:
            accumulate(active, gap, r_tp, r_fp, r_rank, total, ious, recalls, precision, reached, out[p])
