"use strict";
/* Small images, each fetched with who looks once it comes into sight, a few at a time; service.js stands before it. */

const AT_A_TIME = 6;
const drawn = new WeakMap(); // by img, the address that it shows
const wanted = [];
let underway = 0;

const inSight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    wanted.push(target);
    draw();
  }
}, { rootMargin: "300px" });

function draw() {
  while (underway < AT_A_TIME && wanted.length) {
    const image = wanted.shift();
    if (!image.isConnected) { drawn.delete(image); continue; }
    underway += 1;
    drawOne(image).finally(() => { underway -= 1; draw(); });
  }
}

async function drawOne(image) {
  const address = image.dataset.thumb;
  try {
    const made = URL.createObjectURL(await (await call(address)).blob());
    if (image.dataset.thumb !== address) return URL.revokeObjectURL(made);
    image.addEventListener("load", () => URL.revokeObjectURL(made), { once: true });
    image.src = made;
  } catch {
    image.classList.add("without"); // its name stands in its place
  }
}

/* Have the images below `root` drawn that are not yet. */
function showThumbnails(root = document) {
  for (const image of root.querySelectorAll("img[data-thumb]")) {
    if (drawn.get(image) === image.dataset.thumb) continue;
    drawn.set(image, image.dataset.thumb);
    inSight.observe(image);
  }
}
