"""Makes feature_nets.npz and feature_nets_layouts.json.gz; needs torch and the packages it imports.

pip install torch torchvision lpips pytorch-fid torch-fidelity torchmetrics && python feature_nets_make.py
    (or a part of it: inception, resnet, perceptual, scores, ddbm)
"""

import contextlib
import gzip
import io
import json
import sys
import tempfile
from pathlib import Path

import lpips
import numpy as np
import pytorch_fid.inception
import torch
import torchvision
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from tests.golden import feature_nets_weights as given

HERE = Path(__file__).parent
NUMBERS, LAYOUTS = HERE / "feature_nets.npz", HERE / "feature_nets_layouts.json.gz"


def layout(module):
    shapes = {k: list(v.shape) for k, v in module.state_dict().items()}
    return {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")}


def tensors(state):
    return {k: torch.from_numpy(v) for k, v in state.items()}


def nchw(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2))


def inception(layouts, out):
    """The FID's network, without its download, resized as PyTorch and as TensorFlow do."""
    holder = []
    pytorch_fid.inception.load_state_dict_from_url = lambda *a, **k: holder[0]

    class Stop(Exception):
        pass

    real = torchvision.models.Inception3.load_state_dict

    def first(self, state, *a, **k):
        layouts["inception"] = layout(self)
        raise Stop

    holder.append({})
    torchvision.models.Inception3.load_state_dict = first
    with contextlib.suppress(Stop):
        pytorch_fid.inception.fid_inception_v3()
    torchvision.models.Inception3.load_state_dict = real
    state = tensors(given.make(layouts["inception"]))
    holder[0] = state
    net = pytorch_fid.inception.InceptionV3([3], resize_input=True).eval()
    x = nchw(given.images(2, 64))
    pool = net(x / 255)[0][..., 0, 0]
    out["inception_pytorch"] = pool
    out["inception_pytorch_logits"] = pool @ state["fc.weight"].T + state["fc.bias"]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, f"{folder}/w.pth")
        names = ["2048", "logits"]
        net = FeatureExtractorInceptionV3("inception-v3-compat", names, f"{folder}/w.pth")
        out["inception_tensorflow"], out["inception_tensorflow_logits"] = net(x)


def resnet(layouts, out):
    """torchvision's, on images prepared as I2SB does."""
    net = torchvision.models.resnet50(weights=None).eval()
    layouts["resnet50"] = layout(net)
    net.load_state_dict(tensors(given.make(layouts["resnet50"])), strict=False)
    x = nchw(given.images(2, 96)) / 255
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    out["resnet50"] = net((x - mean) / std)


def perceptual(layouts, out):
    """The lpips package, on random trunks and heads."""
    a, b = (nchw(v) / 127.5 - 1 for v in (given.images(4, 64)[:2], given.images(4, 64)[2:]))
    for name, make, trunk in (
        ("vgg", torchvision.models.vgg16, "vgg16"),
        ("alex", torchvision.models.alexnet, "alexnet"),
    ):
        layouts[trunk] = {
            f"features.{k}": v for k, v in layout(make(weights=None).features).items()
        }
        with contextlib.redirect_stdout(io.StringIO()):
            net = lpips.LPIPS(net=name, pnet_rand=True)
        heads = {k: v for k, v in layout(net).items() if k.startswith("lin") and "lins" not in k}
        layouts[f"lpips_{name}"] = heads
        load(net, given.make(layouts[trunk]), given.make(heads))
        out[f"lpips_{name}"] = net(a, b).reshape(-1)


def scores(layouts, out):
    """torch-fidelity's IS and KID."""
    del layouts
    random = np.random.default_rng(5)
    logits = random.normal(size=(60, 12)) * 2
    found = isc_features_to_metric(torch.from_numpy(logits), 4, False)
    out["is"] = torch.tensor(found["inception_score_mean"], dtype=torch.float64)
    f, g = random.normal(size=(2, 40, 10))
    f, g = torch.from_numpy(f), torch.from_numpy(g + 0.3)
    found = kid_features_to_metric(f, g, kid_subsets=1, kid_subset_size=40)
    out["kid"] = torch.tensor(found["kernel_inception_distance_mean"], dtype=torch.float64)
    mean, covariance = {}, {}
    for name, x in (("f", f), ("g", g)):
        mean[name], covariance[name] = x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)
    distance = calculate_frechet_distance(mean["f"], covariance["f"], mean["g"], covariance["g"])
    out["fid"] = torch.tensor(distance, dtype=torch.float64)


def ddbm(layouts, out):
    """torchmetrics' PSNR and SSIM as DDBM's evaluator calls them: batches of 128, 64 px enlarged."""
    from torchmetrics import PeakSignalNoiseRatio
    from torchmetrics.functional import structural_similarity_index_measure

    del layouts
    images = given.images(4, 64)
    x, y = (nchw(v).float() / 255 * 2 - 1 for v in (images[:2], images[2:]))
    x, y = (torch.nn.functional.interpolate(v, size=224, mode="bilinear") for v in (x, y))
    span = float(y.max().clamp(min=0) - y.min().clamp(max=0))  # as older versions infer
    out["ddbm_psnr"] = PeakSignalNoiseRatio(data_range=span)(x, y)
    full = structural_similarity_index_measure(x, y, return_full_image=True)[1]
    out["ddbm_ssim"] = full[..., 5:-5, 5:-5].mean()  # windows inside, as older versions count


PARTS = {
    "inception": inception,
    "resnet": resnet,
    "perceptual": perceptual,
    "scores": scores,
    "ddbm": ddbm,
}


@torch.no_grad()
def main(parts):
    layouts, out = {}, {}
    if NUMBERS.exists():
        layouts = json.loads(gzip.decompress(LAYOUTS.read_bytes()))
        out = {k: torch.from_numpy(v) for k, v in np.load(NUMBERS).items()}
    for part in parts or PARTS:
        PARTS[part](layouts, out)
    np.savez_compressed(NUMBERS, **{k: v.numpy() for k, v in out.items()})
    with gzip.GzipFile(LAYOUTS, "wb", mtime=0) as file:
        file.write(json.dumps(layouts, separators=(",", ":")).encode())
    for name, value in out.items():
        print(
            name, tuple(value.shape), f"mean {value.mean().item():.3g} max {value.max().item():.3g}"
        )


def load(net, trunk, heads):
    """Trunk and heads into lpips.LPIPS, whose slices keep torchvision's numbers."""
    state = net.state_dict()
    for name in state:
        if name.startswith("net.slice"):
            state[name] = torch.from_numpy(trunk["features." + name.split(".", 2)[2]])
        elif name.startswith("lins."):
            state[name] = torch.from_numpy(heads["lin" + name.removeprefix("lins.")])
        elif name in heads:
            state[name] = torch.from_numpy(heads[name])
    net.load_state_dict(state)


if __name__ == "__main__":
    main(sys.argv[1:])
