"""A DALI pipeline that decodes images on a GPU: encoded files in, a network's uint8 input out.

``delugeserve export --decoder dali`` copies this file, with the model's sizes, into a version of
the model's decoder. Triton's DALI backend serialises the pipeline when it loads the model.
"""

from nvidia import dali
from nvidia.dali import fn, types
from nvidia.dali.plugin.triton import autoserialize

HEIGHT, WIDTH, RESIZE_SIZE, BATCH_SIZE = 224, 224, 256, 64
DECODER, DEVICE = "mixed", 0


@autoserialize
@dali.pipeline_def(batch_size=BATCH_SIZE, num_threads=4, device_id=DEVICE)
def decoder():
    """Decode, turn upright, resize the shorter side and crop the centre, in one step."""
    encoded = fn.external_source(device="cpu", name="encoded")
    shape = fn.peek_image_shape(encoded, adjust_orientation=True, dtype=types.FLOAT)
    height, width = shape[0], shape[1]
    scale = RESIZE_SIZE / min(HEIGHT, WIDTH) * dali.math.max(HEIGHT / height, WIDTH / width)
    centre = fn.stack(height / 2, width / 2)
    half = fn.stack(HEIGHT / scale / 2, WIDTH / scale / 2)
    return fn.resize(
        fn.decoders.image(encoded, device=DECODER, output_type=types.RGB, adjust_orientation=True),
        size=[HEIGHT, WIDTH],
        roi_start=centre - half,
        roi_end=centre + half,
        interp_type=types.INTERP_CUBIC,
        antialias=True,
    )
