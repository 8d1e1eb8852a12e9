"""The steps of a compiled program, each forward and back, on one group of rows.

    state, costate   (2^(n+1), lanes)     real parts of all basis states, then imaginary parts
    turns            (n_slots, 2, lanes)  cosine and sine of half of each angle
    slots            (n_slots, lanes)     the gradient for each angle

Lanes are the rows of the group. All arrays are flat, which compiles faster. A turn of (x, y) by t / 2 has
dx'/dt = -y' / 2 and dy'/dt = x' / 2, so its gradient is the sum of (dL/dy' x' - dL/dx' y') / 2; turns of the same
layer do not change each other's. The costate is half of dL/d(state), so that no factor is left over.
"""

from numba import njit

from qpeft.backends.compiled_vectors import (
    lanes,
    load,
    multiply,
    multiply_add,
    multiply_subtract,
    negate,
    splat,
    store,
    total,
    zeros,
)

# Only what Python calls needs a way in from Python, which takes as long to compile as the function itself. A
# division by zero need not raise.
inner = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def start(slots_of, turns, state):  # type: ignore[no-untyped-def]
    """Fill the state with the product of the qubits' first turns, slot -1 standing for none."""
    n_lanes = lanes(state)
    for place in range(0, len(state), n_lanes):
        store(state, place, zeros(state))
    for lane in range(n_lanes):
        state[lane] = 1
    size = 1
    for qubit in range(len(slots_of)):
        slot = slots_of[qubit]
        for here in range(size - 1, -1, -1):
            left, right = load(state, here * n_lanes), zeros(state)
            if slot >= 0:
                cos, sin = turn_of(turns, slot)
                left, right = multiply(left, cos), multiply(left, sin)
            store(state, 2 * here * n_lanes, left)
            store(state, (2 * here + 1) * n_lanes, right)
        size *= 2


@inner
def undo_start(slots_of, state, costate, slots):  # type: ignore[no-untyped-def]
    """Add the gradients of the first turns, of which only real parts know."""
    n_lanes = lanes(state)
    half = len(state) // 2
    stride = half
    for qubit in range(len(slots_of)):
        stride //= 2
        if slots_of[qubit] >= 0:
            grad = zeros(state)
            for high in range(0, half, 2 * stride):
                for low in range(high, high + stride, n_lanes):
                    x, y = load(state, low), load(state, low + stride)
                    grad = add_pull(x, y, load(costate, low), load(costate, low + stride), grad)
            store(slots, slots_of[qubit] * n_lanes, grad)


@inner
def turn_two(state, n_apart, turns, slot, n_apart_two, slot_two):  # type: ignore[no-untyped-def]
    """Turn two qubits, of which the first one's states must be further apart."""
    n_lanes = lanes(state)
    far, near = n_apart * n_lanes, n_apart_two * n_lanes
    cos, sin = turn_of(turns, slot)
    cos_two, sin_two = turn_of(turns, slot_two)
    for high in range(0, len(state), 2 * far):
        for middle in range(high, high + far, 2 * near):
            for low in range(middle, middle + near, n_lanes):
                rotate_four(state, low, far, near, cos, sin, cos_two, sin_two)


@inner
def undo_turn_two(  # type: ignore[no-untyped-def]
    state, costate, n_apart, turns, slot, n_apart_two, slot_two, slots
):
    """Undo `turn_two` and note its gradients."""
    n_lanes = lanes(state)
    far, near = n_apart * n_lanes, n_apart_two * n_lanes
    cos, sin = turn_of(turns, slot)
    cos_two, sin_two = turn_of(turns, slot_two)
    back, back_two = negate(sin), negate(sin_two)
    grad = zeros(state)
    grad_two = zeros(state)
    for high in range(0, len(state), 2 * far):
        for middle in range(high, high + far, 2 * near):
            for low in range(middle, middle + near, n_lanes):
                a, b = load(state, low), load(state, low + near)
                c, d = load(state, low + far), load(state, low + far + near)
                da, db = load(costate, low), load(costate, low + near)
                dc, dd = load(costate, low + far), load(costate, low + far + near)
                grad = add_pull(b, d, db, dd, add_pull(a, c, da, dc, grad))
                grad_two = add_pull(c, d, dc, dd, add_pull(a, b, da, db, grad_two))
                rotate_four(state, low, far, near, cos, back, cos_two, back_two)
                rotate_four(costate, low, far, near, cos, back, cos_two, back_two)
    store(slots, slot * n_lanes, grad)
    store(slots, slot_two * n_lanes, grad_two)


@inner
def turn_pairs(state, pairs, first, last, turns, slot):  # type: ignore[no-untyped-def]
    """Turn the pairs of a part of a list."""
    n_lanes = lanes(state)
    cos, sin = turn_of(turns, slot)
    for i in range(first, last):
        one, two = pairs[2 * i] * n_lanes, pairs[2 * i + 1] * n_lanes
        x, y = rotate(load(state, one), load(state, two), cos, sin)
        store(state, one, x)
        store(state, two, y)


@inner
def undo_turn_pairs(  # type: ignore[no-untyped-def]
    state, costate, pairs, first, last, turns, slot, slots
):
    """Undo `turn_pairs` and note its gradient."""
    n_lanes = lanes(state)
    cos, sin = turn_of(turns, slot)
    back = negate(sin)
    grad = zeros(state)
    for i in range(first, last):
        one, two = pairs[2 * i] * n_lanes, pairs[2 * i + 1] * n_lanes
        x, y = load(state, one), load(state, two)
        dx, dy = load(costate, one), load(costate, two)
        grad = add_pull(x, y, dx, dy, grad)
        x, y = rotate(x, y, cos, back)
        dx, dy = rotate(dx, dy, cos, back)
        store(state, one, x)
        store(state, two, y)
        store(costate, one, dx)
        store(costate, two, dy)
    store(slots, slot * n_lanes, grad)


@inner
def turn_phases(state, phases, first):  # type: ignore[no-untyped-def]
    """Turn each basis state's phase by an angle of its own, (cosine, sine) of half of it."""
    n_lanes = lanes(state)
    half = len(state) // 2
    for here in range(0, half, n_lanes):
        cos, sin = splat(phases[first]), splat(phases[first + 1])
        x, y = rotate(load(state, half + here), load(state, here), cos, sin)
        store(state, half + here, x)
        store(state, here, y)
        first += 2


@inner
def undo_turn_phases(state, costate, phases, first, sums, place):  # type: ignore[no-untyped-def]
    """Undo `turn_phases` and add its gradients, summed over the rows."""
    n_lanes = lanes(state)
    half = len(state) // 2
    for here in range(0, half, n_lanes):
        cos, back = splat(phases[first]), splat(-phases[first + 1])
        x, y = load(state, half + here), load(state, here)
        dx, dy = load(costate, half + here), load(costate, here)
        sums[place] += total(add_pull(x, y, dx, dy, zeros(state)))
        x, y = rotate(x, y, cos, back)
        dx, dy = rotate(dx, dy, cos, back)
        store(state, half + here, x)
        store(state, here, y)
        store(costate, half + here, dx)
        store(costate, here, dy)
        first += 2
        place += 1


@inner
def swap(state, pairs, i):  # type: ignore[no-untyped-def]
    """Let two entries of the state change places."""
    one, two = pairs[2 * i] * lanes(state), pairs[2 * i + 1] * lanes(state)
    x, y = load(state, one), load(state, two)
    store(state, one, y)
    store(state, two, x)


@inner
def read(signs, n_observables, state, values, place):  # type: ignore[no-untyped-def]
    """Write the expectation values of the group, (n_observables, lanes), to a place in `values`."""
    n_lanes = lanes(state)
    half = len(state) // 2
    for k in range(n_observables):
        store(values, place + k * n_lanes, zeros(state))
    sign = 0
    for here in range(0, half, n_lanes):
        x, y = load(state, here), load(state, half + here)
        probability = multiply_add(x, x, multiply(y, y))
        for k in range(n_observables):
            before = load(values, place + k * n_lanes)
            after = multiply_add(splat(signs[sign]), probability, before)
            store(values, place + k * n_lanes, after)
            sign += 1


@inner
def read_back(signs, n_observables, grad, place, state, costate):  # type: ignore[no-untyped-def]
    """Fill `costate` with half of dL/d(state), given the gradient for the expectation values."""
    n_lanes = lanes(state)
    half = len(state) // 2
    sign = 0
    for here in range(0, half, n_lanes):
        factor = zeros(state)
        for k in range(n_observables):
            factor = multiply_add(splat(signs[sign]), load(grad, place + k * n_lanes), factor)
            sign += 1
        store(costate, here, multiply(factor, load(state, here)))
        store(costate, half + here, multiply(factor, load(state, half + here)))


@inner
def turn_of(turns, slot):  # type: ignore[no-untyped-def]
    """Return cosine and sine of one half angle."""
    n_lanes = lanes(turns)
    return load(turns, 2 * slot * n_lanes), load(turns, (2 * slot + 1) * n_lanes)


@inner
def rotate(x, y, cos, sin):  # type: ignore[no-untyped-def]
    """Return x and y after a turn."""
    return (
        multiply_subtract(cos, x, multiply(sin, y)),
        multiply_add(sin, x, multiply(cos, y)),
    )


@inner
def rotate_four(state, low, far, near, cos, sin, cos_two, sin_two):  # type: ignore[no-untyped-def]
    """Turn two qubits in the four vectors that they span."""
    a, c = rotate(load(state, low), load(state, low + far), cos, sin)
    b, d = rotate(load(state, low + near), load(state, low + far + near), cos, sin)
    a, b = rotate(a, b, cos_two, sin_two)
    c, d = rotate(c, d, cos_two, sin_two)
    store(state, low, a)
    store(state, low + near, b)
    store(state, low + far, c)
    store(state, low + far + near, d)


@inner
def add_pull(x, y, dx, dy, grad):  # type: ignore[no-untyped-def]
    """Return grad + dy x - dx y: twice the gradient of a turn."""
    return multiply_add(negate(dx), y, multiply_add(dy, x, grad))
