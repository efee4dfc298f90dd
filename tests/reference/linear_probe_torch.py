"""Golden numbers of the evaluations of frozen features: LARS, the linear probe's head, weighted nearest neighbours.

    python tests/reference/linear_probe_torch.py [FOLDER]

Writes golden/linear_probe.safetensors, all on made-up features. Its tensors:

    lars.start            [48] a matrix [6, 5], its bias [6], and a matrix [3, 4] of zeros, one behind the other
    lars.lr               [5] the learning rate of each step
    lars.gradients        [5, 48] the gradients of each step
    lars.plain, .decay    [5, 48] the values after each step, without weight decay and with 0.1

    train.features        [160, 24], columns of very different scale and offset, the last one constant
    train.labels          [160] uint32, 5 classes
    test.features         [60, 24]
    test.labels           [60] uint32
    head.start            [5 * 24 + 5] the weight [5, 24] and the bias [5]
    head.order            [40, 40] uint32, the rows of each step's batch
    head.lr               [40]
    head.losses           [40] the loss of each step, before its update
    head.end              [5 * 24 + 5]
    head.running_mean     [24]
    head.running_var      [24]
    head.logits           [60, 5] of the test features at the end
    sgd.losses, .end      the same steps by plain SGD with momentum, on features standardised by the train set, at 0.01 * head.lr
    sgd.scale             [1] that 0.01

    knn.k                 [6] uint32
    knn.top1, knn.top5    [6] uint32, how many of the 60 test samples are right with the nearest k of train.features
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

CLASSES, DIM, TRAIN, TEST = 5, 24, 160, 60
BATCH, EPOCHS, WARMUP, PEAK = 40, 10, 2, 6.0
MOMENTUM, TRUST, EPS, SGD_SCALE = 0.9, 1e-3, 1e-6, 0.01
NEIGHBOURS, TEMPERATURE = [1, 3, 5, 20, 100, 160], 0.07


def lars(parameters, buffers, lr, weight_decay):
    """You et al. 2017 with the momentum behind the scaling; parameters of one dimension are not scaled and do not decay."""
    for parameter, buffer in zip(parameters, buffers):
        update = parameter.grad
        if parameter.ndim > 1:
            update = update + weight_decay * parameter
            weights, length = parameter.norm(), update.norm()
            if weights > 0 and length > 0:
                update = update * (TRUST * weights / length)
        buffer.copy_(MOMENTUM * buffer + update)
        parameter.data -= lr * buffer


def flat(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors]).astype(np.float32)


def lars_steps(rng, out):
    shapes = [(6, 5), (6,), (3, 4)]
    start = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    start[2][:] = 0
    gradients = [[(0.3 * rng.standard_normal(s)).astype(np.float32) for s in shapes] for _ in range(5)]
    rates = np.array([0.5, 2.0, 6.4, 1.0, 0.01], np.float32)
    for name, decay in [("plain", 0.0), ("decay", 0.1)]:
        parameters = [torch.tensor(p) for p in start]
        buffers = [torch.zeros_like(p) for p in parameters]
        after = []
        for lr, step in zip(rates, gradients):
            for parameter, gradient in zip(parameters, step):
                parameter.grad = torch.tensor(gradient)
            lars(parameters, buffers, float(lr), decay)
            after.append(flat(parameters))
        out[f"lars.{name}"] = np.stack(after)
    out["lars.start"] = np.concatenate([p.ravel() for p in start])
    out["lars.lr"] = rates
    out["lars.gradients"] = np.stack([np.concatenate([g.ravel() for g in step]) for step in gradients])


def features(rng, centres, mixing, count):
    labels = rng.permutation(np.arange(count) % CLASSES)
    x = (centres[labels] + 1.5 * rng.standard_normal((count, DIM))) @ mixing
    x = x * 10.0 ** np.linspace(-2, 2, DIM) + np.linspace(-5, 5, DIM)
    x[:, -1] = 0.25
    return x.astype(np.float32), labels.astype(np.uint32)


def schedule(epoch):
    if epoch < WARMUP:
        return PEAK * epoch / WARMUP
    return PEAK * 0.5 * (1 + math.cos(math.pi * (epoch - WARMUP) / (EPOCHS - WARMUP)))


def head(out, order, rates, x, labels):
    """The reference's head: BatchNorm without affine, then a linear layer, trained by LARS."""
    norm = torch.nn.BatchNorm1d(DIM, affine=False, eps=EPS)
    linear = torch.nn.Linear(DIM, CLASSES)
    linear.weight.data = torch.tensor(out["head.start"][: CLASSES * DIM]).reshape(CLASSES, DIM)
    linear.bias.data = torch.tensor(out["head.start"][CLASSES * DIM :])
    parameters = [linear.weight, linear.bias]
    buffers = [torch.zeros_like(p) for p in parameters]
    losses = []
    for rows, lr in zip(order, rates):
        loss = torch.nn.functional.cross_entropy(linear(norm(x[rows])), labels[rows])
        linear.zero_grad()
        loss.backward()
        with torch.no_grad():
            lars(parameters, buffers, float(lr), 0.0)
        losses.append(loss.item())
    norm.eval()
    with torch.no_grad():
        out["head.logits"] = linear(norm(torch.tensor(out["test.features"]))).numpy()
    out["head.losses"] = np.array(losses, np.float32)
    out["head.end"] = flat(parameters)
    out["head.running_mean"] = norm.running_mean.numpy()
    out["head.running_var"] = norm.running_var.numpy()


def sgd(out, order, rates, x, labels):
    """torch.optim.SGD on features that are standardised once, by the whole train set."""
    x = ((x.double() - x.double().mean(0)) / (x.double().var(0, unbiased=False) + EPS).sqrt()).float()
    linear = torch.nn.Linear(DIM, CLASSES)
    linear.weight.data = torch.tensor(out["head.start"][: CLASSES * DIM]).reshape(CLASSES, DIM)
    linear.bias.data = torch.tensor(out["head.start"][CLASSES * DIM :])
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0, momentum=MOMENTUM)
    losses = []
    for rows, lr in zip(order, rates):
        optimizer.param_groups[0]["lr"] = SGD_SCALE * float(lr)
        loss = torch.nn.functional.cross_entropy(linear(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    out["sgd.losses"] = np.array(losses, np.float32)
    out["sgd.end"] = flat([linear.weight, linear.bias])
    out["sgd.scale"] = np.array([SGD_SCALE], np.float32)


def neighbours(out):
    """DINO's protocol: cosine similarity, the k nearest vote with exp(similarity / T); classes without a vote are not found."""
    x, queries = (torch.tensor(out[f"{name}.features"]).double() for name in ("train", "test"))
    x, queries = (torch.nn.functional.normalize(v, dim=1) for v in (x, queries))
    labels = torch.tensor(out["train.labels"].astype(np.int64))
    truth = torch.tensor(out["test.labels"].astype(np.int64))
    similar, index = (queries @ x.T).sort(dim=1, descending=True, stable=True)
    top1, top5 = [], []
    for k in NEIGHBOURS:
        votes = torch.zeros(len(queries), CLASSES, dtype=torch.float64)
        votes.scatter_add_(1, labels[index[:, :k]], (similar[:, :k] / TEMPERATURE).exp())
        own = votes.gather(1, truth[:, None])
        rank = (votes > own).sum(dim=1)
        found = own[:, 0] > 0
        top1.append(int((found & (rank < 1)).sum()))
        top5.append(int((found & (rank < 5)).sum()))
    out["knn.k"] = np.array(NEIGHBOURS, np.uint32)
    out["knn.top1"], out["knn.top5"] = np.array(top1, np.uint32), np.array(top5, np.uint32)


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden"
    rng = np.random.Generator(np.random.PCG64(11))
    out = {}
    lars_steps(rng, out)
    centres, mixing = rng.standard_normal((CLASSES, DIM)), rng.standard_normal((DIM, DIM)) / math.sqrt(DIM)
    for name, count in [("train", TRAIN), ("test", TEST)]:
        out[f"{name}.features"], out[f"{name}.labels"] = features(rng, centres, mixing, count)
    weight = 0.01 * rng.standard_normal(CLASSES * DIM)
    out["head.start"] = np.concatenate([weight, np.zeros(CLASSES)]).astype(np.float32)
    steps = TRAIN // BATCH
    order = np.concatenate([rng.permutation(TRAIN).reshape(steps, BATCH) for _ in range(EPOCHS)])
    out["head.order"] = order.astype(np.uint32)
    out["head.lr"] = np.array([schedule(step / steps) for step in range(EPOCHS * steps)], np.float32)
    x = torch.tensor(out["train.features"])
    labels = torch.tensor(out["train.labels"].astype(np.int64))
    head(out, torch.tensor(order), out["head.lr"], x, labels)
    sgd(out, torch.tensor(order), out["head.lr"], x, labels)
    neighbours(out)
    facts = {"golden": f"torch {torch.__version__}"}
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, folder / "linear_probe.safetensors", facts)
    print("losses", out["head.losses"], out["sgd.losses"])
    print("knn", out["knn.top1"], out["knn.top5"])
    accuracy = (out["head.logits"].argmax(1) == out["test.labels"]).mean()
    print("test accuracy", accuracy)


if __name__ == "__main__":
    main()
