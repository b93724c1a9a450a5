// The only file that knows NiiVue (global `niivue`, of the bundle beside it): it paints the scan's three planes, and
// nothing else. What is drawn over them, and all that a mouse does, is ours.
//
// NiiVue fits a scan into each tile by itself. Here each tile shows what its `Tile` says, by the two methods of NiiVue
// that decide it, which are those of the pinned version; `tests/view/test_browser.py` holds the picture against the scan.

/* global niivue */
const KINDS = { axial: 0, coronal: 1, sagittal: 2 };

class Scene extends niivue.Niivue {
  tiles = null;

  calculateWidthHeight(kind, scale, width, height) {
    return [width, height];
  }

  screenFieldOfViewExtendedMM(kind = 0) {
    const whole = super.screenFieldOfViewExtendedMM(kind);
    const tile = this.tiles && Object.values(this.tiles).find((each) => KINDS[each.name] === kind);
    if (!tile) return whole;
    for (const axis of [0, 1]) {
      whole.mnMM[axis] = tile.seen.low[axis];
      whole.mxMM[axis] = tile.seen.high[axis];
      whole.fovMM[axis] = whole.mxMM[axis] - whole.mnMM[axis];
    }
    return whole;
  }
}

export class ScanView {
  #scene = null;
  #image = null;

  async start(canvas) {
    this.#scene = new Scene({
      backColor: [0, 0, 0, 1], crosshairWidth: 0, interactive: false, isColorbar: false, isOrientationTextVisible: false,
      isRadiologicalConvention: true, isResizeCanvas: false, isSliceMM: true, loadingText: "", logLevel: "error",
      dragAndDropEnabled: false, sagittalNoseLeft: true, show3Dcrosshair: false,
    });
    await this.#scene.attachToCanvas(canvas, false);
  }

  // `file` is an ArrayBuffer of a NIfTI file in the page's frame; `windowHu` low and high HU.
  async show(file, windowHu) {
    for (const old of [...this.#scene.volumes]) this.#scene.removeVolume(old);
    this.#image = await niivue.NVImage.new(file, "scan.nii", "gray", 1.0, null, windowHu[0], windowHu[1]);
    this.#scene.addVolume(this.#image);
  }

  window([low, high]) {
    if (!this.#image) return;
    this.#image.cal_min = low;
    this.#image.cal_max = high;
    this.#scene.updateGLVolume();
  }

  // Paints the tiles with the slices that meet at `crosshair` (mm).
  draw(tiles, crosshair, width, height) {
    if (!this.#image) return;
    const scene = this.#scene;
    scene.tiles = tiles;
    scene.scene.crosshairPos = scene.mm2frac(crosshair);
    scene.customLayout = Object.values(tiles).map((tile) => ({
      sliceType: KINDS[tile.name],
      position: [tile.left / width, tile.top / height, tile.width / width, tile.height / height],
    }));
    scene.drawScene();
  }
}
