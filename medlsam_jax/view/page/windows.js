// CT windows: level and width in HU, as radiology departments name them.

export const WINDOWS = [
  { name: "Soft tissue", key: "abdomen", level: 40, width: 400 },
  { name: "Head & neck", key: "neck", level: 50, width: 250 },
  { name: "Lung", key: "lung", level: -600, width: 1500 },
  { name: "Bone", key: "bone", level: 400, width: 1800 },
  { name: "Brain", key: "brain", level: 40, width: 80 },
];
export const limits = ({ level, width }) => [level - width / 2, level + width / 2];
