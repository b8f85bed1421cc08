"""Train a bridge, distil it, sample both, restore a photograph: ten minutes on two CPU cores."""

import jax_bridges as jb

config = jb.get_config(
    "inpaint"
)  # of photographs: config.data.update(name="folder", path="photos")
jb.run(config, "runs/first")  # trains, distils, measures; runs/first/report.html says how well

teacher, student = jb.load("runs/first", "teacher"), jb.load("runs/first", "student")
x0, xT, mask = teacher.examples(6)
by_teacher = teacher.sample(xT, sampler="dbim", nfe=10, mask=mask)
by_student = student.sample(xT, nfe=1, mask=mask)
sheet = jb.show({"source": xT, "dbim 10": by_teacher, "student 1": by_student, "target": x0})
sheet.save("runs/first.png")

restorer = jb.Restorer("runs/first", nfe=2)  # pictures of any size
picture = restorer("photo.jpg", boxes=[(40, 30, 16, 16)])  # left, top, width, height
picture.save("runs/restored.png")
