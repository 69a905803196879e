"""Literal strings that are inputs of the model: a changed letter is another embedding. Carried over, with sources.

The prompt follows the last line of an instruction directly. All three texts: Apache License 2.0.
"""

# The default prefix of SanaVideoPipeline in diffusers 0.42.1, diffusers/pipelines/sana_video/pipeline_sana_video.py.
# Copyright 2025 SANA-Video Authors and The HuggingFace Team.
VIDEO_INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for video generation. Evaluate the level of detail in the user prompt:",  # noqa: E501
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, and temporal relationships to create vivid and dynamic scenes.",  # noqa: E501
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",  # noqa: E501
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled position, peacefully falling asleep on a warm sunny windowsill, with gentle sunlight filtering through surrounding pots of blooming red flowers.",  # noqa: E501
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps gradually lighting up, a diverse crowd of people in colorful clothing walking past, and a double-decker bus smoothly passing by towering glass skyscrapers.",  # noqa: E501
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or evaluations:",  # noqa: E501
        "User Prompt: ",
    ]
)

# `text_encoder.chi_prompt` of NVlabs/Sana configs/sana_video_config/Sana_2000M_480px_AdamW_fsdp.yaml (commit 98c4a1d)
# and
# of Sana_2000M_720px_ltx2vae_AdamW_fsdp.yaml (commit a15af46). Copyright 2024 NVIDIA CORPORATION & AFFILIATES.
# SanaPipeline in diffusers says the same with single quotes round the words "Enhanced prompt".
IMAGE_INSTRUCTION = "\n".join(
    [
        'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for image generation. Evaluate the level of detail in the user prompt:',  # noqa: E501
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships to create vivid and concrete scenes.",  # noqa: E501
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",  # noqa: E501
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",  # noqa: E501
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",  # noqa: E501
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or evaluations:",  # noqa: E501
        "User Prompt: ",
    ]
)

INSTRUCTIONS = {"video": VIDEO_INSTRUCTION, "image": IMAGE_INSTRUCTION}

# The default of `negative_prompt` in NVlabs/Sana inference_video_scripts/inference_sana_video.py (commit 16c9ce3).
# Copyright 2024 NVIDIA CORPORATION & AFFILIATES.
NEGATIVE_PROMPT = "A chaotic sequence with misshapen, deformed limbs in heavy motion blur, sudden disappearance, jump cuts, jerky movements, rapid shot changes, frames out of sync, inconsistent character shapes, temporal artifacts, jitter, and ghosting effects, creating a disorienting visual experience."  # noqa: E501
