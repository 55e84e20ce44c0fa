"""Face attribute sets: who gives them out, under which terms, and the files that are expected."""

from __future__ import annotations

from datasets.catalog import Count, Entry

UTKFACE = Entry(
    "utkface",
    "UTKFace",
    "23,708 aligned faces of 200x200 with age, gender and race in the file name; no identities.",
    "University of Tennessee, Knoxville (Z. Zhang, Y. Song, H. Qi)",
    "non-commercial research",
    "get the aligned and cropped faces from the authors' page.",
    "UTKFace",
    ("<age>_<gender>_<race>_<time>.jpg.chip.jpg",),
    ("*.jpg",),
    (Count("*.jpg", 23708),),
    reader="datasets.utkface.UTKFace",
)
CELEBA = Entry(
    "celeba",
    "CelebA",
    "202,599 faces of 10,177 people with 40 binary attributes, aligned, 178x218.",
    "Chinese University of Hong Kong, MMLAB (Z. Liu, P. Luo, X. Wang, X. Tang)",
    "non-commercial research, no redistribution",
    "get the aligned images and the lists from the authors' page; identities on request.",
    "celeba",
    (
        "img_align_celeba/000001.jpg",
        "list_attr_celeba.txt",
        "list_eval_partition.txt",
        "identity_CelebA.txt (optional)",
    ),
    ("img_align_celeba", "list_attr_celeba.txt"),
    (Count("img_align_celeba/*.jpg", 202599), Count("list_attr_celeba.txt", 202601, "lines")),
    {
        "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
        "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
        "identity_CelebA.txt": "32bd1bd63d3c78cd57e08160ec5ed1e2",
    },
    reader="datasets.celeba.CelebA",
)
IMAGENET_PEOPLE = Entry(
    "imagenet_people",
    "ImageNet people with demographic annotations",
    "10,215 images of 104 classes of the person subtree, each with one person's annotated gender.",
    "ImageNet (K. Yang, K. Qinami, L. Fei-Fei, J. Deng, O. Russakovsky)",
    "ImageNet's terms of access; demographic annotations on request",
    "ask the ImageNet team for images and annotations; Imagenet.csv is in the FairGRAPE repository (csv/).",
    "imagenet_people",
    ("Imagenet.csv", "images/n09618880_1589.JPEG"),
    ("Imagenet.csv", "images"),
    (Count("Imagenet.csv", 10216, "lines"),),
    reader="datasets.imagenet_people.ImageNetPeople",
)

ATTRIBUTES = (UTKFACE, CELEBA, IMAGENET_PEOPLE)
